"""The last worker of a listener gets every connection that has come, before it leaves."""

import errno
import os

import pytest

from everycore.core import wire
from everycore.core.dispatch import BELT_PAUSE
from everycore.foreign import socket_internals
from everycore.primary.listeners import acceptor as acceptor_module
from everycore.system.accepting import PAUSE
from tests.kit import turn
from tests.kit.stage import short_belt, stage


async def test_the_last_one_that_leaves_gets_the_connections_so_far_and_no_later_ones():
    async with stage(1) as it:
        ports = await it.connect(10)  # two on its belt, as its credit is, the others in the backlog
        it.listener.rest(1, finishes=True)
        assert it.workers[1].take_all() == ports
        assert it.distribution.queued == 0
        assert not it.socket.is_listening
        it.workers[1].ack()
        await turn(4)
        assert it.distribution.account(1) == (10, 0)


@pytest.mark.parametrize("when_no_worker", ["refuse", "hold"])
@pytest.mark.parametrize("batch", [1, 16])
async def test_the_last_one_that_is_asked_to_leave_gets_all_connections_in_portions(batch, when_no_worker):
    async with stage(when_no_worker=when_no_worker) as it:
        worker = await it.worker(1, batch=batch)
        with short_belt(it, 1, 2):
            ports = await it.connect(100)
            it.listener.finish(1)
            got: list[int] = []
            while it.listener.finishing is not None:
                assert it.distribution.queued <= batch  # the others wait in the backlog
                assert ("finished", 1) not in it.events
                got += worker.take_all()
                worker.ack()
                await it.settled()
                await it.loop.pass_time(BELT_PAUSE * 1.1)
            got += worker.take_all()
            assert got == ports
            assert it.events[-1] == ("finished", 1)
            assert it.distribution.queued == 0
            assert it.socket.is_listening == (when_no_worker == "hold")
            assert not it.listener._subscribers[1].ready


async def test_the_last_one_is_given_them_as_descriptors_come_free(monkeypatch, caplog):
    async with stage(1) as it:
        ports = await it.connect(40)
        accepted = 0

        def exhausted(sock):
            nonlocal accepted
            accepted += 1
            if accepted % 10 == 0:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return socket_internals.accept(sock)

        monkeypatch.setattr(acceptor_module, "accept", exhausted)
        it.listener.finish(1)
        got: list[int] = []
        while it.listener.finishing is not None:
            got += it.workers[1].take_all()
            it.workers[1].ack()
            await it.loop.pass_time(PAUSE * 1.1)
        assert got + it.workers[1].take_all() == ports


async def test_one_that_gets_every_connection_at_once_is_finished_at_once():
    async with stage(1) as it:
        ports = await it.connect(40)
        it.listener.finish(1)
        assert it.listener.finishing is None
        assert ("finished", 1) not in it.events  # no one had to wait for it
        assert it.workers[1].take_all() == ports
        assert not it.socket.is_listening


async def test_another_one_relieves_the_last_that_is_about_to_leave():
    async with stage(1) as it:
        with short_belt(it, 1, 1):
            ports = await it.connect(40)
            it.listener.finish(1)
            assert it.listener.finishing == 1
            second = await it.worker(2)
            assert it.listener.finishing is None
            assert it.events[-2:] == [("serving", 2), ("finished", 1)]
            assert it.workers[1].take() is None
            got: list[int] = []
            while len(got) < len(ports):
                got += second.take_all()
                second.ack()
                await it.settled()
            assert sorted(got) == sorted(ports)


@pytest.mark.parametrize("how", ["full", "close", "death", "violation"])
async def test_the_last_one_that_can_take_no_more_is_finished(how):
    async with stage(1) as it:
        with short_belt(it, 1, 1):
            await it.connect(40)
            it.listener.finish(1)
            match how:
                case "full":
                    it.workers[1].say(wire.Full())
                case "close":
                    it.workers[1].say(wire.Close())
                case "death":
                    it.listener.remove(1)
                case "violation":
                    it.workers[1].say(wire.Acked(999))
            await it.settled()
            assert it.listener.finishing is None
            assert it.events[-1] == ("finished", 1) or ("violated", 1) in [event[:2] for event in it.events]
            assert it.distribution.queued == 0
            assert not it.socket.is_listening


async def test_one_that_leaves_without_being_asked_is_given_what_its_belt_takes_at_once():
    async with stage(1) as it:
        with short_belt(it, 1, 2):
            ports = await it.connect(100)
            it.listener.finish(1)
            it.listener.rest(1, finishes=True)  # it has said that it leaves, or its time is over
            assert it.listener.finishing is None
            got = it.workers[1].take_all()
            assert got == ports[: len(got)]
            assert len(got) >= 2
            assert not it.socket.is_listening


async def test_the_last_one_that_dies_leaves_them_to_its_replacement():
    async with stage(1, when_no_worker="hold") as it:
        ports = await it.connect(4)
        it.listener.rest(1, finishes=False)
        assert it.workers[1].take_all() == []
        assert it.distribution.queued == 2
        second = await it.worker(2)
        assert second.take_all() == ports
