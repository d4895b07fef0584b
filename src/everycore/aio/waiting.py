"""Waiting: for what must be seen through to its end, among others, and what ends a wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
#: Those that wait for one thing.
Waiters: TypeAlias = deque[asyncio.Future[None]]


async def see_through(what: Awaitable[Any]) -> None:
    """Wait for `what` to end, whatever is cancelled meanwhile; that is raised once it has ended.

    For an end that takes milliseconds: of processes that were sent SIGKILL.
    """
    waiting = asyncio.ensure_future(what)
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled


async def wait_among(waiters: Waiters) -> None:
    """Return once `release` has let all of `waiters` go."""
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    finally:
        if waiter in waiters:
            waiters.remove(waiter)


def release(waiters: Waiters) -> None:
    """Let all go who wait. Each looks again for itself: one of them may be cancelled meanwhile. Hot."""
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)


def settle(future: asyncio.Future[T], result: T | BaseException) -> None:
    """Give `future` its result, or an error to raise; nothing if it is done: whoever waited was cancelled."""
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
