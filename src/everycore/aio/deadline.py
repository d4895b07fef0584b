"""A timer that is set again and again, mostly to the time it already has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `on_due` once, at the time that was set last. Times are seconds of the clock of `loop`.

    least: the call comes at least this many seconds after `set`. uvloop spins on timers below a millisecond.
    """

    __slots__ = ("_least", "_loop", "_on_due", "_timer", "due")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], object], *, least: float = 0.0
    ) -> None:
        self._loop = loop
        self._on_due = on_due
        self._least = least
        self._timer: asyncio.TimerHandle | None = None
        #: The time that was set last; None if none is set, or it has passed. Read-only.
        self.due: float | None = None  # on uvloop the handle does not tell it

    def set(self, due: float | None) -> None:
        """Set the deadline. None removes it."""
        if due == self.due:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.due = due
        if due is not None:
            at = max(due, self._loop.time() + self._least) if self._least else due
            self._timer = self._loop.call_at(at, self._end)

    def set_in(self, seconds: float) -> None:
        """Set the deadline to `seconds` from now."""
        self.set(self._loop.time() + seconds)

    def _end(self) -> None:
        self._timer = self.due = None
        self._on_due()
