"""Ways to wait: despite cancellation, among other waiters, and how a wait is ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
#: The futures of those that wait for one thing.
Waiters: TypeAlias = deque[asyncio.Future[None]]


async def see_through(what: Awaitable[Any]) -> None:
    """Wait for `what` to end despite cancellation. A cancellation is raised once it has ended.

    Use this for an end that takes milliseconds, such as that of processes that were sent SIGKILL.
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
    """Join `waiters` and return once `release` wakes them."""
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    finally:
        if waiter in waiters:
            waiters.remove(waiter)


def release(waiters: Waiters) -> None:
    """Wake all `waiters`, since one woken alone might be cancelled. Each checks again what it awaits. Hot."""
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)


def settle(future: asyncio.Future[T], result: T | BaseException) -> None:
    """Give `future` a result, or an error to raise. Does nothing if it is done: its waiter was cancelled."""
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
