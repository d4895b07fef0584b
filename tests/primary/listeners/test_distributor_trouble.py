"""Errors of accept, belts that take no more, and the end."""

import errno
import logging
import socket
import struct

import pytest

from everycore.core import wire
from everycore.core.dispatch import BELT_PAUSE
from everycore.system.accepting import PAUSE
from tests.kit.stage import Stage, blocked_belt, fail_to_accept, stage


@pytest.mark.parametrize(
    "numbers",
    [(errno.EMFILE, errno.ENFILE, errno.ENOBUFS), (errno.EPERM, errno.EPERM, errno.EIO)],
    ids=["known", "unknown"],  # EPERM: the error of a seccomp filter
)
async def test_an_error_that_may_last_is_one_pause_and_one_line(monkeypatch, caplog, numbers):
    async with stage(1) as it:
        fail_to_accept(monkeypatch, *numbers)
        with caplog.at_level(logging.WARNING, "everycore"):
            ports = await it.connect()
            for _ in range(3):
                assert it.workers[1].take() is None
                assert it.loop.remove_reader(it.socket.sock) is False  # no busy loop
                await it.loop.pass_time(PAUSE * 1.1)
        assert it.workers[1].take_all() == ports
        assert [record.message.startswith("accept on 127.0.0.1:") for record in caplog.records] == [True] * 3


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH, errno.ENETDOWN])
async def test_an_error_of_the_connection_itself_is_skipped(monkeypatch, caplog, number):
    async with stage(1) as it:
        fail_to_accept(monkeypatch, *[number] * 100)
        ports = await it.connect()
        await it.settled()
        assert it.workers[1].take_all() == ports
        assert not caplog.records


async def test_a_connection_that_failed_already_is_skipped():
    async with stage(1) as it:
        with socket.create_connection(it.socket.real) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ports = await it.connect()
        await it.settled()
        taken = it.workers[1].take_all()
        it.workers[1].ack()
        await it.settled()
        assert (taken + it.workers[1].take_all())[-1:] == ports


async def test_a_worker_that_fills_up_while_its_belt_rests_is_given_nothing_when_that_is_over():
    """It has sent `Full` once, and gives back every later connection."""
    async with stage(1) as it:
        with blocked_belt(it, 1):
            ports = await it.connect()
        it.workers[1].say(wire.Full())
        await it.settled()
        for _ in range(3):
            await it.loop.pass_time(BELT_PAUSE * 2)
            assert it.workers[1].take() is None
        it.workers[1].serve(16)
        await it.settled()
        assert it.workers[1].take_all() == ports


async def test_a_worker_that_has_room_again_is_given_nothing_while_its_belt_rests():
    async with stage(1) as it:
        it.workers[1].say(wire.Full())
        with blocked_belt(it, 1):
            it.workers[1].serve(16)
            ports = await it.connect()
        it.workers[1].serve(16)  # more or less room, or the same
        await it.settled()
        assert it.workers[1].take() is None
        await it.loop.pass_time(BELT_PAUSE * 2)
        assert it.workers[1].take_all() == ports


async def test_a_belt_that_takes_no_more_is_tried_again_and_nothing_is_lost():
    async with stage(1, 2) as it:
        with blocked_belt(it, 1):
            ports = await it.connect(3)
        got = it.workers[2].take_all()
        assert it.workers[1].take() is None
        it.workers[2].ack()
        await it.settled()
        got += it.workers[2].take_all()
        await it.loop.pass_time(BELT_PAUSE * 2)
        got += it.workers[1].take_all() + it.workers[2].take_all()
        assert sorted(got) == sorted(ports)


async def test_closing_closes_everything():
    """The same holds for what is taken back from one worker: it is not handed to another meanwhile."""
    it = Stage(when_no_worker="hold")
    it.listener.start()
    await it.worker(1)
    await it.worker(2)
    await it.connect(3)
    second = it.distribution.dispatcher.lanes.lanes[2]
    it.listener.close()
    assert second.total == 1
    assert [sock.recv(1) for sock in it.clients] == [b"", b"", b""]
    assert [worker.take() for worker in it.workers.values()] == [None, None]
    it.close()
