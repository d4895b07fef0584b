"""An event loop whose clock stands still while its process is stopped.

A process that is stopped for ten minutes (Ctrl-Z, a debugger) finds all its timers due when it goes on: it
would kill workers that were stopped with it for not having been ready in time, and those that it has not
heard yet. uvloop's timers go by a clock of their own, and know nothing of this.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

# Which is asyncio's own clock. HOT: a primary looks at it six times a connection.
_now: Final = time.monotonic


class PausableLoop(asyncio.SelectorEventLoop):
    """The event loop of a primary. Invariant: `time()` never goes back."""

    _stood_still = 0.0
    _last = 0.0

    def time(self) -> float:
        """As that of any loop, without the time for which the process was stopped."""
        self._last = now = _now() - self._stood_still
        return now

    def stand_still(self) -> None:
        """The process was stopped, at some time after its last look at the clock: none of that has passed."""
        self._stood_still = _now() - self._last
