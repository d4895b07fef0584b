"""A timer that is set again and again, mostly to the time that it has already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `on_due` once when the time that was set last has come: seconds of the clock of `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], object]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def set(self, due: float | None) -> None:
        """None: there is no deadline any more."""
        if self._timer is not None:
            if due == self._due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._due = due  # the handle does not tell, on uvloop
            self._timer = self._loop.call_at(due, self._end)

    def _end(self) -> None:
        self._timer = None
        self._on_due()
