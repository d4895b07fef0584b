"""How many connections a worker takes from a shared listener, and when. The board plays the others."""

import asyncio
import contextlib
import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from everycore.core import wire
from everycore.core.lanes import COSTLY
from everycore.core.patience import MOST
from everycore.foreign import socket_internals
from everycore.system.belt import make_pair
from everycore.system.board import Next
from everycore.system.wakeups import is_readable, take_baton
from everycore.worker.connections import shared_reader
from everycore.worker.connections.limits import ConnectionLimit
from everycore.worker.connections.shared_reader import MOST_AT_ONCE, SharedReader
from everycore.worker.listening.clustersocket import ClusterSocket, SharedSocket
from tests.kit import VirtualClock, connected, scaled, turn

TURNS = 3
WAITING = 3 * MOST_AT_ONCE


class Board:
    """What this worker knows about itself and the others."""

    cost = 0.0
    others_wait = False
    holds_too_many = False
    held = 0

    def next(self, margin, slack):
        if self.holds_too_many:
            return Next.NOT_MINE
        return Next.ANOTHER if self.others_wait else Next.ONLY_MINE

    def should_yield(self, margin):
        return self.holds_too_many

    def serving(self, serves):
        pass

    def idle(self, is_idle):
        pass


class Stage:
    """A listener with connections in its backlog, and a worker that accepts them."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=WAITING)
        self.listener.setblocking(False)
        ours, theirs = make_pair()
        baton = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self.ends = [ours, theirs, self.listener]
        granted = wire.Granted(1, 1, list(self.listener.getsockname()), socket.AF_INET, socket.SOCK_STREAM, 0)
        lent = [os.dup(end.fileno()) for end in (theirs, ours, self.listener)] + [baton]
        sock = ClusterSocket.granted(granted, lent, lambda _: None, lambda *_: None, started=True)
        assert isinstance(sock, SharedSocket)
        self.sock = sock
        self.board = Board()
        self.limit = ConnectionLimit()
        self.taken = 0
        self.turns = TURNS
        parts: Any = {
            "board": self.board,
            "connections": SimpleNamespace(when_fewer=lambda _: None),
            "readiness": SimpleNamespace(when_ready=lambda loop, go: go()),
        }
        loop = asyncio.get_running_loop()
        self.reader = SharedReader(loop, self.sock, self, self.limit, **parts)

    def give(self, fd, peer):
        self.taken += 1
        self.limit.opened()
        os.close(fd)

    def advance(self):
        pass

    def connect(self):
        """Add one connection to the backlog."""
        self.ends.append(connected(self.listener, self.listener.getsockname(), scaled(10)))

    def rest(self):
        """Let the primary tell this worker to accept nothing."""
        self.ends[0].send(wire.encode(wire.Rest()))

    def waits(self):
        """Whether a connection waits."""
        return is_readable(self.listener.fileno())

    def take_by_another(self):
        """Let another worker accept the next connection."""
        self.listener.accept()[0].close()

    async def connected(self, count=WAITING):
        """Put `count` connections into the backlog, and let the worker begin."""
        for _ in range(count):
            self.connect()
        self.reader.begin()
        await turn()  # the count of a turn comes before its events

    def close(self):
        self.sock.close()
        for end in self.ends:
            end.close()


@contextlib.asynccontextmanager
async def stage():
    made = Stage()
    try:
        yield made
    finally:
        made.close()


async def by_turns(it, turns):
    """How many connections it took in each of the next turns."""
    taken = []
    for _ in range(turns):
        before = it.taken
        await turn()
        taken.append(it.taken - before)
    return taken


@pytest.fixture(autouse=True)
def loop_factory():
    return asyncio.SelectorEventLoop


async def test_one_a_turn_while_another_worker_waits():
    async with stage() as it:
        it.board.others_wait = True
        await it.connected()
        assert await by_turns(it, 5) == [1] * 5


async def test_some_more_while_all_others_are_at_work():
    async with stage() as it:
        await it.connected()
        assert await by_turns(it, 4) == [MOST_AT_ONCE] * 3 + [0]


async def test_one_at_a_time_while_each_costs_much_and_after_its_handler_has_begun():
    async with stage() as it:
        it.board.cost = 2 * COSTLY
        await it.connected()
        assert await by_turns(it, 3 * (TURNS + 1)) == [1, *[0] * TURNS] * 3


async def test_none_beyond_the_limit():
    async with stage() as it:
        it.limit.set(MOST_AT_ONCE + 1, None)
        await it.connected()
        assert sum(await by_turns(it, 6)) == MOST_AT_ONCE + 1
        it.limit.closed()
        assert sum(await by_turns(it, 2)) == 1


async def test_none_that_comes_in_the_same_turn_as_the_word_to_rest_nor_any_later_one():
    async with stage() as it:
        it.board.others_wait = True
        await it.connected(0)
        await turn()  # it waits in the queue
        it.rest()
        it.connect()
        assert await by_turns(it, 3) == [0] * 3
        assert take_baton(it.sock.baton)  # another is woken for it
        it.connect()
        assert await by_turns(it, 3) == [0] * 3
        assert not take_baton(it.sock.baton)  # this worker is woken no more


async def test_none_once_the_program_has_closed_the_socket():
    async with stage() as it:
        give = it.give

        def close_then(fd, peer):
            it.sock.close()
            give(fd, peer)

        it.give = close_then
        await it.connected()
        assert sum(await by_turns(it, 6)) == 1


class TestWhoHoldsTooMany:
    """It checks again in each turn, and time stands still unless the test moves it."""

    @pytest.fixture
    def clock(self, monkeypatch):
        monkeypatch.setattr(shared_reader, "BACKOFF", 0.0)
        return VirtualClock()

    @contextlib.asynccontextmanager
    async def stage(self, clock):
        async with stage() as it:
            it.board.others_wait = it.board.holds_too_many = True
            it.reader._now = clock
            yield it

    async def test_leaves_the_next_ones_to_others_as_long_as_they_take_them(self, clock):
        async with self.stage(clock) as it:
            await it.connected()
            assert sum(await by_turns(it, 20)) == 1
            while it.taken == 1 and it.waits():
                it.take_by_another()
                await turn()
            assert it.taken == 1

    async def test_comes_back_when_the_others_have_caught_up(self, clock):
        async with self.stage(clock) as it:
            await it.connected()
            assert sum(await by_turns(it, 20)) == 1
            it.board.holds_too_many = False
            assert sum(await by_turns(it, 4)) >= 2

    async def test_takes_one_when_no_other_worker_does(self, clock):
        async with self.stage(clock) as it:
            await it.connected()
            for taken in (1, 2, 3):
                assert sum(await by_turns(it, 20)) == 1
                assert it.taken == taken
                clock.advance(MOST)

    async def test_in_its_turn_it_wakes_another_instead(self, clock):
        async with self.stage(clock) as it:
            await it.connected(1)
            assert sum(await by_turns(it, 5)) == 1
            it.connect()
            for _ in range(10):
                await turn()
                if take_baton(it.sock.baton):
                    break
            else:
                pytest.fail("no baton was passed on")
            it.take_by_another()
            assert sum(await by_turns(it, 5)) == 0

    async def test_takes_it_if_no_other_can_be_woken(self, clock):
        """The baton comes back to it: no other worker was waiting."""
        async with self.stage(clock) as it:
            await it.connected(1)
            assert sum(await by_turns(it, 5)) == 1
            it.connect()
            assert sum(await by_turns(it, 10)) == 1


class TestErrorsOfAccept:
    """The primary's acceptor judges them alike (tests/primary/listeners/test_distributor_trouble.py)."""

    @pytest.fixture
    def failures(self, monkeypatch):
        """The next calls of accept(2) fail with these errors."""
        numbers: list[int] = []
        real = socket_internals.accept

        def accept(sock):
            if numbers:
                raise OSError(number := numbers.pop(0), os.strerror(number))
            return real(sock)

        monkeypatch.setattr(shared_reader, "accept", accept)
        return numbers

    @pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH])
    async def test_one_of_the_connection_itself_is_skipped(self, failures, caplog, number):
        async with stage() as it:
            it.board.others_wait = True
            failures += [number, number]
            await it.connected()
            assert await by_turns(it, 4) == [0, 0, 1, 1]
            assert not caplog.records

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.EPERM, errno.EIO])
    async def test_one_that_may_last_is_a_pause_and_a_line(self, failures, caplog, number):
        async with stage() as it:
            failures += [number]
            await it.connected()
            assert await by_turns(it, 5) == [0] * 5
            assert [os.strerror(number) in record.message for record in caplog.records] == [True]
            assert it.waits()

    async def test_a_listener_that_does_not_listen_is_a_pause(self, failures, caplog):
        async with stage() as it:
            failures += [errno.EINVAL]
            await it.connected()
            assert await by_turns(it, 5) == [0] * 5
            assert not caplog.records
