"""An event loop whose clock stands still while its process is stopped.

A process that is stopped for ten minutes (Ctrl-Z, a debugger) finds all its timers due when it continues. It
would then kill workers that were stopped with it and so were not ready in time, and workers whose messages it
has not read yet. uvloop's timers use a clock of their own, which this module does not reach.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

# asyncio's own clock. HOT: a primary reads it six times per connection.
_now: Final = time.monotonic


class PausableLoop(asyncio.SelectorEventLoop):
    """The event loop of a primary. Invariant: `time()` never goes back."""

    _stood_still = 0.0
    _last = 0.0

    def time(self) -> float:
        """Return the loop's time, in seconds, without the time during which the process was stopped."""
        self._last = now = _now() - self._stood_still
        return now

    def stand_still(self) -> None:
        """Take back the time since the last look at the clock: the process was stopped meanwhile."""
        self._stood_still = _now() - self._last
