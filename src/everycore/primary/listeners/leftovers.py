"""Listeners that their last worker has closed, where connections are to wait for workers.

That worker either does not want its listener any more, or is about to end: a program that fails closes its
servers first. The primary can't know yet. So the listener waits for a worker until the one that closed it has
lived on for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from everycore.primary.listeners.listener import Listener

log = logging.getLogger("everycore.primary")

#: The most listeners without a worker: a worker that closes and dies over and over leaves no more behind.
MOST_KEPT: Final = 256
#: Seconds between two log lines about listeners that are given up.
SILENCE: Final = 10.0


class Leftovers:
    """The leftovers of one cluster. `close` is called for one that no worker has wanted for `seconds`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, close: Callable[[Listener], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._close = close
        #: Number of a listener -> the worker that closed it last, as long as that worker lives.
        self._closers: dict[int, int] = {}
        #: When the next listener that is given up may be logged.
        self._silent_until = 0.0

    def add(self, listener: Listener, worker: int) -> None:
        """Keep a listener that `worker`, its last one, has closed."""
        self._closers[listener.listing.id] = worker
        self._loop.call_later(self._seconds, self._end, listener, worker)

    def taken(self, listener: Listener) -> None:
        """Note that a worker holds the listener again."""
        self._closers.pop(listener.listing.id, None)

    def gone(self, worker: int) -> None:
        """Note that `worker` has ended: the listeners that it had closed wait for another worker."""
        for number in [number for number, closer in self._closers.items() if closer == worker]:
            del self._closers[number]

    def beyond_most(self, listeners: Iterable[Listener]) -> list[Listener]:
        """The listeners without a worker that exceed the limit: those that have waited longest."""
        kept = [listener for listener in listeners if not listener.subscribers]
        beyond = kept[: max(len(kept) - MOST_KEPT, 0)]
        if beyond and self._loop.time() >= self._silent_until:
            self._silent_until = self._loop.time() + SILENCE
            log.warning(
                "closing %s, which has no worker: %d other listeners wait for one",
                beyond[0].socket.what,
                MOST_KEPT,
            )
        return beyond

    def clear(self) -> None:
        """Forget all: every listener is closed."""
        self._closers.clear()

    def _end(self, listener: Listener, worker: int) -> None:
        if self._closers.get(listener.listing.id) == worker:
            del self._closers[listener.listing.id]
            self._close(listener)
