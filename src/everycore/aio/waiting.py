"""Waiting for what must be seen through to its end.

Invariant: what is waited for has ended when it returns or raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


async def see_through(what: Awaitable[Any]) -> None:
    """Wait for `what` to end, whatever is cancelled meanwhile; that is raised afterwards.

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
