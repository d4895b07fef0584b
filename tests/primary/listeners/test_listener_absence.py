"""With no worker ready a listener refuses or holds."""

import errno
import os
import socket

import pytest

from everycore.primary.listeners.attendance import RELISTEN_PAUSE
from tests.kit.stage import Stage, stage


async def test_refuse_stops_listening_and_listens_again_on_the_same_port():
    async with stage(1) as it:
        it.listener.remove(1)
        with pytest.raises(ConnectionRefusedError):
            await it.connect()
        with socket.socket() as thief, pytest.raises(OSError, match="in use"):
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(it.socket.real)
            thief.listen()
        await it.worker(2)
        assert it.workers[2].take_all() == await it.connect() or it.workers[2].take_all()


async def test_refuse_closes_what_was_queued():
    async with stage(1) as it:
        await it.connect(2)
        it.listener.remove(1)
        assert it.distribution.queued == 0
        assert [sock.recv(1) for sock in it.clients] == [b"", b""]


async def test_hold_keeps_the_queue_and_the_backlog_for_the_next():
    async with stage(1, when_no_worker="hold") as it:
        ports = await it.connect(2)
        it.listener.remove(1)
        assert it.distribution.queued == 2
        ports += await it.connect(2)
        await it.worker(2)
        taken = it.workers[2].take_all()
        it.workers[2].ack()
        await it.settled()
        assert taken + it.workers[2].take_all() == ports


async def test_hold_is_over_in_time_and_then_it_is_refuse():
    async with stage(1, when_no_worker="hold", hold_timeout=5.0) as it:
        await it.connect(1)
        it.listener.remove(1)
        await it.loop.pass_time(4.9)
        await it.connect(1)
        await it.loop.pass_time(0.2)
        assert it.clients[0].recv(1) == b""
        with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
            it.clients[1].recv(1)
        with pytest.raises(ConnectionRefusedError):
            await it.connect()
        await it.worker(2)
        await it.connect()


async def test_a_worker_that_holds_and_is_not_ready_gets_nothing():
    async with stage() as it:
        await it.worker(1, ready=False)
        assert it.events == [("serving", 1)]
        with pytest.raises(ConnectionRefusedError):
            await it.connect()
        it.listener.set_ready(1)
        ports = await it.connect()
        assert it.workers[1].take_all() == ports


async def test_a_worker_that_has_not_asked_to_be_served_gets_nothing_yet():
    async with stage() as it:
        await it.worker(1, batch=0)
        ports = await it.connect(2)  # it is ready, so the kernel accepts them
        assert it.distribution.accepted == 0
        it.workers[1].serve(16)
        await it.settled()
        assert it.workers[1].take_all() == ports


async def test_only_bound_means_refused_until_start():
    it = Stage()
    try:
        await it.worker(1)
        with pytest.raises(ConnectionRefusedError):
            await it.connect()
        it.listener.start()
        ports = await it.connect()
        assert it.workers[1].take_all() == ports
    finally:
        it.close()


async def test_a_port_that_was_taken_is_tried_again_once_a_second_even_if_workers_come(monkeypatch):
    async with stage(1) as it:
        it.listener.remove(1)
        tried = 0

        def listen():
            nonlocal tried
            tried += 1
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

        with monkeypatch.context() as patch:
            patch.setattr(it.socket, "listen", listen)
            for number in (2, 3, 4, 5):
                await it.worker(number)
            for _ in range(3):
                tried = 0
                await it.loop.pass_time(RELISTEN_PAUSE * 1.1)
                assert tried == 1
        await it.loop.pass_time(RELISTEN_PAUSE * 1.1)
        assert it.socket.is_listening
        it.listener.close()
        await it.loop.pass_time(RELISTEN_PAUSE * 1.1)
