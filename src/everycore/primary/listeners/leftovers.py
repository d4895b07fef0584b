"""Listeners whose last worker has closed them, where connections are to wait for workers.

Such a worker wants its listener no more, or it is about to end: a program that fails closes its servers
first. Nobody can know yet. So the listener waits for a worker, until its closer has lived on for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from everycore.primary.listeners.listener import Listener

log = logging.getLogger("everycore.primary")

#: Listeners that no worker holds, at most: one that closes and dies over and over leaves no more behind.
MOST_KEPT: Final = 256
#: Seconds between two lines about listeners that are given up.
SILENCE: Final = 10.0


class Leftovers:
    """The leftovers of one cluster. `close` is called for one that no worker has wanted for `seconds`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, close: Callable[[Listener], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._close = close
        #: Number of a listener -> who closed it last, as long as that worker lives.
        self._closers: dict[int, int] = {}
        #: When a listener that is given up may be told again.
        self._silent_until = 0.0

    def add(self, listener: Listener, worker: int) -> None:
        """`worker` has closed it, as the last one."""
        self._closers[listener.listing.id] = worker
        self._loop.call_later(self._seconds, self._end, listener, worker)

    def taken(self, listener: Listener) -> None:
        """A worker holds it."""
        self._closers.pop(listener.listing.id, None)

    def gone(self, worker: int) -> None:
        """`worker` was about to end: what it had closed waits for another one."""
        for number in [number for number, closer in self._closers.items() if closer == worker]:
            del self._closers[number]

    def beyond_most(self, listeners: Iterable[Listener]) -> list[Listener]:
        """Of the listeners that wait for a worker, those that are too many: they have waited longest."""
        kept = [listener for listener in listeners if not listener.subscribers]
        beyond = kept[: max(len(kept) - MOST_KEPT, 0)]
        if beyond and self._loop.time() >= self._silent_until:
            self._silent_until = self._loop.time() + SILENCE
            log.warning("%s is given up: %d others wait for a worker", beyond[0].socket.what, MOST_KEPT)
        return beyond

    def clear(self) -> None:
        """All listeners are closed."""
        self._closers.clear()

    def _end(self, listener: Listener, worker: int) -> None:
        if self._closers.get(listener.listing.id) == worker:
            del self._closers[listener.listing.id]
            self._close(listener)
