"""Waiting with others, and what ends a wait."""

import asyncio
from collections import deque

import pytest

from everycore.aio.waiting import Waiters, release, settle, wait_among
from tests.kit import turn


async def test_all_waiters_are_released_except_those_that_gave_up():
    waiters: Waiters = deque()
    tasks = [asyncio.create_task(wait_among(waiters)) for _ in range(3)]
    await turn()
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert len(waiters) == 2

    release(waiters)
    await asyncio.gather(tasks[0], tasks[2])
    assert not waiters


async def test_one_that_is_cancelled_in_the_turn_of_the_release_does_no_harm():
    waiters: Waiters = deque()
    tasks = [asyncio.create_task(wait_among(waiters)) for _ in range(2)]
    await turn()
    waiters[0].cancel()
    release(waiters)
    await tasks[1]
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


async def test_a_future_is_settled_once():
    loop = asyncio.get_running_loop()
    good: asyncio.Future[int] = loop.create_future()
    bad: asyncio.Future[int] = loop.create_future()
    settle(good, 1)
    settle(good, 2)
    settle(bad, LookupError("no"))
    settle(bad, 3)
    assert await good == 1
    with pytest.raises(LookupError):
        await bad
