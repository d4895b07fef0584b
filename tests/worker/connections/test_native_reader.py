"""A shared listener from which uvloop accepts: each connection is counted while it is open."""

import asyncio
import contextlib
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from everycore.core import pace, wire
from everycore.core.pace import SLACK
from everycore.system.belt import make_pair
from everycore.system.board import IDLE, OPEN, ROW, PrimaryBoard, WorkerBoard
from everycore.system.wakeups import is_readable
from everycore.worker.connections.ledger import Ledger
from everycore.worker.connections.limits import ConnectionLimit
from everycore.worker.connections.reception import HEADROOM
from everycore.worker.listening.clustersocket import ClusterSocket, SharedSocket
from tests.kit import connected, open_fds, scaled, turn
from tests.kit.channel_pairs import until

uvloop = pytest.importorskip("uvloop")
uvloop.new_event_loop().close()  # libuv keeps descriptors of its own from the first loop on

from everycore.foreign import uvloop_internals  # noqa: E402
from everycore.worker.connections import native_reader, turns  # noqa: E402
from everycore.worker.connections.native_reader import NativeReader  # noqa: E402
from everycore.worker.connections.turns import TOLD, UNTOLD, Turns  # noqa: E402

pytestmark = pytest.mark.skipif(
    not uvloop_internals.accepts_natively(), reason="this uvloop is not known, or EVERYCORE_WITHOUT says so"
)


@pytest.fixture(autouse=True)
def loop_factory():
    return uvloop.new_event_loop


class Echo(asyncio.Protocol):
    """Cannot have further attributes."""

    __slots__ = ("transport",)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Stage:
    """A listener, and the worker that takes its connections, alone on a board."""

    def __init__(self, *, listens):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.setblocking(False)
        if listens:
            self.listener.listen(100)
        ours, theirs = make_pair()
        self.ends = [ours, theirs, self.listener]
        granted = wire.Granted(1, 1, list(self.listener.getsockname()), socket.AF_INET, socket.SOCK_STREAM, 0)
        lent = [os.dup(end.fileno()) for end in (theirs, ours, self.listener)]
        lent.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE))
        sock = ClusterSocket.granted(granted, lent, lambda _: None, lambda *_: None, started=True)
        assert isinstance(sock, SharedSocket)
        self.sock = sock
        self.primary = PrimaryBoard()
        self.board = WorkerBoard(os.dup(self.primary.fd), self.primary.allot())
        self.ledger = Ledger(self.board)
        self.limit = ConnectionLimit()
        self.made: list[Any] = []
        self.factory: Any = Echo
        self.by_hand = 0
        self.turns = 2
        self.loop = asyncio.get_running_loop()
        self.told = Turns(self.loop, self.board)
        parts: Any = {
            "board": self.board,
            "connections": self.ledger,
            "readiness": SimpleNamespace(when_ready=lambda loop, go: go()),
        }
        self.reader = NativeReader(
            self.loop, sock, self, self.limit, factory=self.make, turns=self.told, **parts
        )
        self.reader.begin()

    def make(self):
        self.made.append(protocol := self.factory())
        return protocol

    def give(self, fd, peer):
        self.by_hand += 1
        self.limit.opened()
        os.close(fd)

    def advance(self):
        pass

    def connect(self):
        client = connected(self.listener, self.listener.getsockname(), scaled(10))
        client.setblocking(False)
        self.ends.append(client)
        return client

    @property
    def counts(self):
        """How many connections are open, by each counter."""
        return self.primary.open(1), self.ledger.open, self.limit.open

    async def took(self, *, by_hand):
        """Whether the next connection was accepted; by_hand: in Python, else by libuv."""
        before = len(self.made), self.by_hand
        self.connect()
        await until(lambda: (len(self.made), self.by_hand) != before)
        return (self.by_hand > before[1]) is by_hand

    async def until_open(self, count):
        await until(lambda: self.counts == (count,) * 3)

    def close(self):
        self.sock.close()
        self.told.close()
        for end in self.ends:
            end.close()


def own_fds():
    """All but the one that libuv keeps for when the process runs out of descriptors."""
    return {fd for fd, what in open_fds().items() if what != os.devnull}


@contextlib.asynccontextmanager
async def stage(*, listens=True):
    before = own_fds()
    made = Stage(listens=listens)
    try:
        await until(lambda: made.reader._registrations.listener is not None)  # libuv polls it first
        yield made
    finally:
        made.close()
        await until(lambda: not made.reader.count())
        made.board.close()
        made.primary.close()
        await until(lambda: own_fds() == before, 200)


async def echoed(it, client):
    client.send(b"x")
    assert await asyncio.wait_for(it.loop.sock_recv(client, 1), scaled(10)) == b"x"


async def test_each_is_counted_from_its_acceptance_to_its_end():
    async with stage() as it:
        clients = [it.connect() for _ in range(3)]
        await it.until_open(3)
        await echoed(it, clients[0])
        ended = asyncio.Event()
        it.ledger.when_none(ended.set)
        clients.pop().close()
        await it.until_open(2)
        assert not ended.is_set()
        for client in clients:
            client.close()
        await asyncio.wait_for(ended.wait(), scaled(10))
        assert it.counts == (0, 0, 0)
        assert it.primary.accepted(1) == 3
        assert it.ledger.has_seen
        assert it.by_hand == 0


async def test_one_that_gets_another_protocol_is_counted_on():
    async with stage() as it:
        client = it.connect()
        await it.until_open(1)
        it.made[0].transport.set_protocol(asyncio.Protocol())
        client.close()
        await it.until_open(0)


async def test_it_does_not_make_the_listener_listen():
    """The primary decides that, and may refuse new clients; listen(2) would also change the shared
    backlog."""
    async with stage(listens=False) as it:
        await turn(3)
        assert it.listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
        it.listener.listen(5)
        it.connect()
        await it.until_open(1)


class TestAFactoryThatFails:
    @pytest.mark.parametrize("returned", [None, object()])
    async def test_by_what_it_returns(self, returned):
        told: list[Any] = []
        async with stage() as it:
            it.loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
            it.factory = lambda: returned
            client = it.connect()
            assert await asyncio.wait_for(it.loop.sock_recv(client, 1), scaled(10)) == b""
            assert isinstance(told[0], TypeError)
            it.factory = Echo
            await echoed(it, it.connect())
            await it.until_open(1)

    async def test_by_an_error(self):
        def fail():
            raise LookupError

        told: list[Any] = []
        async with stage() as it:
            it.loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
            it.factory = fail
            clients = [it.connect() for _ in range(3)]
            for client in clients:
                assert await asyncio.wait_for(it.loop.sock_recv(client, 1), scaled(10)) == b""
            assert list(map(type, told)) == [LookupError] * 3
            it.factory = Echo
            await echoed(it, it.connect())

    def test_by_the_end_of_the_program(self):
        """As in a server of uvloop's own: it ends with the loop."""

        def leave():
            raise SystemExit(5)

        async def main():
            async with stage() as it:
                it.factory = leave
                it.connect()
                await it.until_open(-1)

        with (
            pytest.raises(SystemExit, match="5"),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(main())


class TestEachIsLookedAtFirst:
    """In these cases this worker's reader accepts, in Python."""

    async def test_while_there_is_a_limit(self):
        async with stage() as it:
            it.connect()
            await it.until_open(1)
            it.limit.set(2, None)
            for _ in range(3):
                it.connect()
            await until(lambda: it.by_hand == 1)
            assert it.limit.open == 2
            assert is_readable(it.listener.fileno())
            it.limit.set(None, None)
            await until(lambda: len(it.made) == 3)
            assert it.by_hand == 1

    async def test_also_a_connection_from_before_the_limit_makes_room_by_its_end(self):
        async with stage() as it:
            first = it.connect()
            await it.until_open(1)
            it.limit.set(1, None)
            assert it.limit.is_full
            it.connect()
            first.close()
            await until(lambda: it.by_hand == 1)

    async def test_while_descriptors_are_short(self):
        """libuv would close the connections that wait."""
        async with stage() as it:
            await it.until_open(0)
            lowest = os.dup(0)
            os.close(lowest)
            it.reader._descriptor_limit = lowest + HEADROOM - 1
            assert [await it.took(by_hand=True) for _ in range(3)] == [True, True, True]
            it.reader._descriptor_limit = lowest + 10 * HEADROOM
            assert [await it.took(by_hand=True) for _ in range(3)] == [True, False, False]

    async def test_while_the_program_has_lowered_its_limit(self, monkeypatch):
        async with stage() as it:
            await it.until_open(0)
            lowest = os.dup(0)
            os.close(lowest)
            monkeypatch.setattr(native_reader, "descriptor_limit", lambda: lowest + HEADROOM - 1)
            assert [await it.took(by_hand=True) for _ in range(2)] == [True, True]
            monkeypatch.undo()
            assert [await it.took(by_hand=True) for _ in range(2)] == [True, False]

    async def test_while_the_listener_does_not_listen(self, caplog):
        """The primary refuses for a while. libuv would try to accept in every turn, for ever."""
        async with stage() as it:
            it.listener.shutdown(socket.SHUT_RD)
            await until(lambda: it.reader._is_in_trouble)
            listener = it.reader._registrations.listener
            await until(lambda: not listener.is_armed)
            it.listener.listen(100)
            it.reader._end_backoff()
            it.reader._rearm()
            assert [await it.took(by_hand=True) for _ in range(3)] == [True, False, False]


async def test_those_that_are_open_when_the_server_closes_go_on_and_are_counted():
    async with stage() as it:
        client = it.connect()
        await it.until_open(1)
        it.sock.close()
        with pytest.raises(ConnectionRefusedError):
            it.listener.close()
            socket.create_connection(client.getpeername())
        await echoed(it, client)
        assert it.counts == (1, 1, 1)
        client.close()
        await it.until_open(0)
        await until(lambda: not it.ledger._groups)


async def test_they_can_be_ended():
    async with stage() as it:
        clients = [it.connect() for _ in range(2)]
        await it.until_open(2)
        own = socket.create_connection(it.listener.getsockname())  # the program's own, as to a database
        it.ends.append(own)
        transport, _ = await it.loop.create_connection(asyncio.Protocol, sock=own)
        await it.until_open(3)
        found = it.ledger.connections_of(it.limit)
        assert len(found) == 3
        found[0].end(abort=False)
        await it.until_open(2)
        it.ledger.abort()
        await it.until_open(0)
        for client in clients:
            assert await asyncio.wait_for(it.loop.sock_recv(client, 1), scaled(10)) == b""
        transport.close()


class TestHotTurns:
    """Turns are sampled while one connection after another comes and each of them is cheap."""

    @pytest.fixture(autouse=True)
    def fast_and_cheap(self, monkeypatch):
        """On a busy machine too."""
        monkeypatch.setattr(pace, "FAST", scaled(60))
        for module in (pace, native_reader):
            monkeypatch.setattr(module, "COSTLY", scaled(60))

    async def test_a_sample_has_to_do_and_the_board_says_meanwhile_that_the_loop_waits(self, monkeypatch):
        monkeypatch.setattr(turns, "LONGEST_PAUSE", scaled(60))
        async with stage() as it:
            for _ in range(TOLD + 2):
                it.connect().close()
            await until(lambda: len(it.made) == TOLD + 2)
            assert it.told._is_paused
            assert it.primary._cells[ROW + IDLE] == 1
            assert it.primary._cells[ROW + OPEN] <= TOLD + 2
            it.limit.set(5, None)  # from now on each end may matter
            it.reader._disarm()
            assert not it.told._is_paused
            await it.until_open(0)
            it.reader._rearm()

    async def test_others_may_hold_some_fewer_while_connections_end_as_fast_as_they_come(self):
        def come(it, count, *, stay):
            for _ in range(count):
                it.board.accepted(1, 1.0)
                if not stay:
                    it.board.closed()
                it.told.pace.left -= 1
                if not it.told.pace.left:
                    it.told.step(UNTOLD)

        async with stage() as it:
            come(it, 1 + TOLD, stay=False)
            assert it.told.pace.slack == SLACK
            come(it, UNTOLD, stay=True)
            assert it.told.pace.slack == 0

    async def test_the_pause_ends_by_itself(self):
        async with stage() as it:
            for _ in range(TOLD + 2):
                it.connect().close()
            await it.until_open(0)
            assert not it.told._is_paused
