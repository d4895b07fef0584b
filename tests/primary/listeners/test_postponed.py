"""Answers that wait for the outcome of another worker's request. Time stands still."""

import asyncio
import errno
import socket

import pytest

from everycore.core import wire
from everycore.core.listeners import BindNew, ListenKey
from everycore.primary.listeners.passed import PassedSockets
from everycore.primary.listeners.postponed import AFTER_AN_END, IN_USE, NotYet, Postponed
from tests.kit.stage import stage

KEY = ListenKey(("127.0.0.1", 80), socket.AF_INET, socket.SOCK_STREAM)


def waits(postponed: Postponed, key: ListenKey, worker: int) -> bool:
    """Whether the answer to the worker is postponed, when no worker has that address."""
    try:
        postponed.check(BindNew(key), key, worker)
    except NotYet:
        return True
    return False


class Asker:
    """Repeats its request, and remembers whether it was for the last time."""

    def __init__(self, postponed: Postponed) -> None:
        self.asked: list[bool] = []
        postponed.add(self.asked.append, asyncio.get_running_loop().time() + IN_USE)


async def pass_time(seconds: float) -> None:
    await asyncio.get_running_loop().pass_time(seconds)  # type: ignore[attr-defined]


async def test_a_waiting_request_is_repeated_when_something_has_changed():
    postponed = Postponed(asyncio.get_running_loop(), [], PassedSockets())
    asker = Asker(postponed)
    postponed.look()
    postponed.look()
    assert asker.asked == []
    await pass_time(0)
    assert asker.asked == [False]
    await pass_time(IN_USE)
    assert asker.asked == [False]


async def test_a_waiting_request_is_repeated_for_the_last_time_after_its_wait():
    postponed = Postponed(asyncio.get_running_loop(), [], PassedSockets())
    asker = Asker(postponed)
    await pass_time(IN_USE)
    assert asker.asked == [True]


async def test_at_the_end_no_worker_waits():
    postponed = Postponed(asyncio.get_running_loop(), [], PassedSockets())
    asker = Asker(postponed)
    postponed.close()
    assert asker.asked == [True]
    await pass_time(IN_USE)
    assert asker.asked == [True]


async def test_an_address_in_use_is_told_to_one_until_that_has_gone_on():
    postponed = Postponed(asyncio.get_running_loop(), [], PassedSockets())
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket() as given:
        key = ListenKey(other.getsockname(), socket.AF_INET, socket.SOCK_STREAM)
        request = wire.Bind(list(other.getsockname()))
        with pytest.raises(OSError, match="in use") as caught:
            postponed.bound(1, key, given, request)
    assert caught.value.errno == errno.EADDRINUSE
    assert waits(postponed, key, 2)
    assert not waits(postponed, key, 1)
    assert not waits(postponed, KEY, 2)
    assert postponed.was_told(request.address)
    postponed.has_gone_on(1)
    assert not waits(postponed, key, 2)
    assert not postponed.was_told(request.address)


async def test_what_a_worker_has_ended_by_is_told_the_others_a_moment_later():
    postponed = Postponed(asyncio.get_running_loop(), [], PassedSockets())
    postponed.tell(KEY, 1)
    asker = Asker(postponed)
    postponed.has_ended(1)
    assert postponed.in_use[1] == KEY
    await pass_time(AFTER_AN_END / 2)
    assert asker.asked == []
    await pass_time(AFTER_AN_END)
    assert asker.asked == [False]
    assert not waits(postponed, KEY, 2)


async def test_a_program_that_connects_to_what_only_others_serve_is_refused():
    async with stage(1) as it:
        postponed = Postponed(it.loop, [it.listener], PassedSockets())
        address = it.socket.real
        postponed.check_connect(1, address)
        with pytest.raises(ConnectionRefusedError):
            postponed.check_connect(2, address)
        postponed.check_connect(2, (address[0], 1))
        postponed.check_connect(2, ("127.0.0.2", address[1]))
        postponed.check_connect(2, "/a/path")
