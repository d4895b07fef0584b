"""All workers are to leave: the listener goes first, and connections that have come are served."""

import asyncio
import errno
import os
import socket

import pytest

from everycore.core.listeners import ListenKey, Listing
from everycore.foreign import socket_internals
from everycore.primary.listeners import acceptor, barring
from everycore.primary.listeners.attendance import NoWorkerBehaviour
from everycore.primary.listeners.listener import Listener
from everycore.primary.listeners.shared import LOOK_SHUTTING, SharedDistribution
from everycore.system import closing
from everycore.system.accepting import PAUSE
from everycore.system.belt import Belt, make_pair
from everycore.system.listeners import StreamListener
from tests.kit import connected, scaled
from tests.kit.stage import Client, ClockLoop, stage


@pytest.fixture(autouse=True)
def unprivileged(monkeypatch):
    """As without CAP_NET_ADMIN."""
    monkeypatch.setattr(closing, "bar", lambda sock: False)


async def serve_all(it, *numbers):
    """Let these workers read and acknowledge until nothing comes. Returns the ports that they got."""
    got: list[int] = []
    while True:
        before = len(got)
        for number in numbers:
            got += it.workers[number].take_all()
            it.workers[number].ack()
        await it.settled()
        if len(got) == before:
            return got


async def test_it_stops_listening_at_once_and_all_share_the_connections_that_came():
    async with stage(1, 2) as it:
        ports = await it.connect(30)
        it.listener.shut()
        assert not it.socket.is_listening
        for number in (1, 2):
            it.listener.finish(number)
            assert it.listener.is_finishing(number)
        shares = [it.workers[number].take_all() for number in (1, 2)]
        assert all(shares)
        assert it.events[-1] != ("finished", 1)
        for number in (1, 2):
            it.workers[number].ack()
        await it.settled()
        got = [port for share in shares for port in share] + await serve_all(it, 1, 2)
        assert sorted(got) == sorted(ports)
        assert it.events[-2:] == [("finished", 1), ("finished", 2)]


async def test_without_waiting_connections_the_workers_may_leave_at_once():
    async with stage(1, 2) as it:
        it.listener.shut()
        assert not it.socket.is_listening
        for number in (1, 2):
            it.listener.finish(number)
            assert not it.listener.is_finishing(number)
        assert "finished" not in [event[0] for event in it.events]


@pytest.mark.parametrize("when_no_worker", ["refuse", "hold"])
async def test_newcomers_are_refused_while_workers_leave_and_after(when_no_worker):
    async with stage(1, when_no_worker=when_no_worker) as it:
        it.listener.shut()
        it.listener.finish(1)
        it.listener.remove(1)
        with pytest.raises(ConnectionRefusedError), socket.socket() as sock:
            sock.connect(it.socket.real)


async def test_a_worker_that_comes_later_opens_it_again():
    async with stage(1) as it:
        it.listener.shut()
        it.listener.finish(1)
        it.listener.remove(1)
        await it.worker(2)
        assert it.socket.is_listening
        ports = await it.connect(1)
        assert it.workers[2].take_all() == ports


async def test_one_that_comes_while_it_shuts_relieves_those_that_leave():
    async with stage(1) as it:
        ports = await it.connect(10)
        it.listener.shut()
        it.listener.finish(1)
        await it.worker(2)
        assert ("finished", 1) in it.events
        ports += await it.connect(3)
        assert sorted(await serve_all(it, 1, 2)) == sorted(ports)
        assert it.socket.is_listening


async def test_a_worker_that_dies_leaves_its_share_to_the_others():
    async with stage(1, 2) as it:
        ports = await it.connect(10)
        it.listener.shut()
        for number in (1, 2):
            it.listener.finish(number)
        it.listener.remove(1)
        assert sorted(await serve_all(it, 2)) == sorted(ports)
        assert it.events[-1] == ("finished", 2)


async def test_when_the_time_for_it_is_over_the_last_one_gets_the_rest():
    async with stage(1, 2) as it:
        ports = await it.connect(30)
        it.listener.shut()
        for number in (1, 2):
            it.listener.finish(number)
        for number in (1, 2):  # as `Farewell` does
            it.listener.rest(number, finishes=True)
            assert not it.listener.is_finishing(number)
        assert sorted(it.workers[2].take_all()) == sorted(ports)


async def test_without_descriptors_it_goes_on_when_some_are_free(monkeypatch):
    async with stage(1) as it:
        ports = await it.connect(20)
        left = [3]

        def short(sock):
            if not left[0]:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            left[0] -= 1
            return socket_internals.accept(sock)

        monkeypatch.setattr(acceptor, "accept", short)
        it.listener.shut()
        it.listener.finish(1)
        got: list[int] = []
        while it.listener.is_finishing(1):
            got += await serve_all(it, 1)
            left[0] = 3
            await it.loop.pass_time(PAUSE * 1.1)
        assert sorted(got + await serve_all(it, 1)) == sorted(ports)
        assert not it.socket.is_listening


async def test_a_listener_of_others_too_is_left_alone():
    """As for one of systemd's: its connections wait for its next server."""
    async with stage(1) as it:
        it.socket.owned = False
        ports = await it.connect(10)
        it.listener.shut()
        it.listener.finish(1)
        assert it.socket.is_listening
        got = await serve_all(it, 1)
        assert got == ports[: len(got)]
        assert len(got) < len(ports)
        assert not it.listener.is_finishing(1)
        it.listener.remove(1)
        connected(it.socket.sock, it.socket.real, scaled(10)).close()


class TestBarred:
    """With CAP_NET_ADMIN no handshake begins, and those under way end, before the listener is emptied."""

    @pytest.fixture(autouse=True)
    def privileged(self, monkeypatch, unprivileged):
        self.barred: list[bool] = []
        self.under_way = 0

        def bar(sock):
            self.barred.append(True)
            return True

        monkeypatch.setattr(closing, "bar", bar)
        monkeypatch.setattr(closing, "unbar", lambda sock: self.barred.append(False))
        monkeypatch.setattr(closing, "count_handshakes", lambda sock: self.under_way)

    async def test_it_waits_a_moment_and_serves_the_client_on_its_way(self):
        async with stage(1) as it:
            it.listener.shut()
            it.listener.finish(1)
            assert self.barred == [True]
            assert it.socket.is_listening
            ports = await it.connect(1)
            assert it.workers[1].take_all() == ports
            it.workers[1].ack()
            await it.loop.pass_time(barring.LEAST * 1.1)
            assert it.socket.is_listening
            await it.loop.pass_time(barring.LEAST * 1.1)
            assert not it.socket.is_listening
            assert it.events[-1] == ("finished", 1)

    async def test_while_handshakes_are_under_way_it_waits_for_a_second_at_most(self):
        async with stage(1) as it:
            self.under_way = 1
            it.listener.shut()
            it.listener.finish(1)
            await it.loop.pass_time(barring.MOST * 0.9)
            assert it.socket.is_listening
            await it.loop.pass_time(barring.MOST * 0.2)
            assert not it.socket.is_listening
            assert it.events[-1] == ("finished", 1)

    async def test_it_is_barred_no_more_when_it_listens_again(self):
        async with stage(1) as it:
            it.listener.shut()
            it.listener.finish(1)
            await it.loop.pass_time(barring.LEAST * 1.1)
            await it.loop.pass_time(barring.LEAST * 1.1)
            it.listener.remove(1)
            await it.worker(2)
            assert self.barred == [True, False]


class Shared:
    """A listener shared by `count` workers."""

    def __init__(self, loop, address, family, count):
        self.events = []
        self.seats = {}
        self.socket = StreamListener.bound(address, family=family, v6only=True, backlog=16)
        self.loop = loop
        key = ListenKey(address, family, socket.SOCK_STREAM)
        self.distribution = SharedDistribution(loop, self.socket)
        listing = Listing(1, key, True, None)
        self.listener = Listener(
            loop, self.socket, listing, NoWorkerBehaviour(), lambda *_: None, self.distribution
        )
        self.listener.start()
        for number in range(1, count + 1):
            ours, theirs = make_pair()
            self.listener.add(Client(number, self), Belt(ours, theirs), ready=True)


@pytest.mark.parametrize("kind", ["IPv4", "unix"])
async def test_a_shared_one_is_closed_when_workers_have_taken_all(tmp_path, kind):
    loop: ClockLoop = asyncio.get_running_loop()  # type: ignore[assignment]
    unix = kind == "unix"
    address = str(tmp_path / "s") if unix else ("127.0.0.1", 0)
    it = Shared(loop, address, socket.AF_UNIX if unix else socket.AF_INET, 2)
    try:
        with socket.socket(it.socket.family) as waiting:
            waiting.connect(it.socket.real)
            it.listener.shut()
            for number in (1, 2):
                it.listener.finish(number)
                assert it.listener.is_finishing(number)
            await loop.pass_time(LOOK_SHUTTING * 1.1)
            assert it.socket.is_listening
            it.socket.sock.accept()[0].close()  # a worker takes it
            await loop.pass_time(LOOK_SHUTTING * 1.1)
            assert not it.socket.is_listening
            assert it.events == [("finished", 1), ("finished", 2)]
        with socket.socket(it.socket.family) as late, pytest.raises(ConnectionRefusedError):
            late.connect(it.socket.real)
    finally:
        it.listener.close()
