"""How many a worker takes of a shared listener in one turn; the other workers are what the board says."""

import asyncio
import contextlib
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from everycore.core import wire
from everycore.system.belt import make_pair
from everycore.worker.clustersocket import ClusterSocket, SharedSocket
from everycore.worker.limits import Limit
from everycore.worker.turns import MOST_AT_ONCE, SharedReception
from tests.kit import turn

TURNS = 3
WAITING = 3 * MOST_AT_ONCE


class Board:
    """What this worker knows of itself and the others."""

    is_costly = False
    others_wait = False

    def somebody_is_free(self):
        return self.others_wait

    def should_yield(self, margin):
        return False

    def serving(self, serves):
        pass

    def idle(self, is_idle):
        pass


class Stage:
    """A listener with connections in its backlog, and the worker that takes them."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=WAITING)
        self.listener.setblocking(False)
        ours, theirs = make_pair()
        baton = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self.ends = [ours, theirs, self.listener]
        granted = wire.Granted(1, 1, list(self.listener.getsockname()), socket.AF_INET, socket.SOCK_STREAM, 0)
        lent = [os.dup(end.fileno()) for end in (theirs, ours, self.listener)] + [baton]
        connections: Any = SimpleNamespace(when_fewer=lambda _: None)
        sock = ClusterSocket.granted(granted, lent, connections, lambda *_: None, started=True)
        assert isinstance(sock, SharedSocket)
        self.sock = sock
        self.board = Board()
        self.limit = Limit()
        self.taken = 0
        context: Any = SimpleNamespace(
            board=self.board, connections=connections, descriptor_limit=1_000_000, when_ready=lambda go: go()
        )
        loop = asyncio.get_running_loop()
        self.reception = SharedReception(loop, self.sock, context, self.give, self.limit, TURNS)

    def give(self, fd, peer):
        self.taken += 1
        self.limit.open += 1
        os.close(fd)

    async def connected(self):
        """`WAITING` of them in the backlog, and the worker begins."""
        for _ in range(WAITING):
            self.ends.append(socket.create_connection(self.listener.getsockname()))
        self.reception.begin()
        await turn()  # whoever counts turns does so before what happens in them

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
    """How many it took in each of the next turns."""
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
        it.board.is_costly = True
        await it.connected()
        assert await by_turns(it, 3 * (TURNS + 1)) == [1, *[0] * TURNS] * 3


async def test_none_beyond_the_limit():
    async with stage() as it:
        it.limit.set(MOST_AT_ONCE + 1, None)
        await it.connected()
        assert sum(await by_turns(it, 6)) == MOST_AT_ONCE + 1
        it.limit.ended()
        assert sum(await by_turns(it, 2)) == 1


async def test_none_once_the_program_has_closed_the_socket():
    async with stage() as it:
        give = it.reception._give

        def close_then(fd, peer):
            it.sock.close()
            give(fd, peer)

        it.reception._give = close_then
        await it.connected()
        assert sum(await by_turns(it, 6)) == 1
