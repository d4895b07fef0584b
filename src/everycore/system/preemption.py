"""How long a thread is busy, without the time for which the kernel has given its processor to another.

Where processors are short, the kernel takes a thread's processor away for some milliseconds. By the clock, a
turn of the loop in which that happens looks as if a handler had blocked. Facts (getrusage(2), Linux):
`ru_nivcsw` counts these switches, and none for a thread that waits by itself, in a sleep or a system call. So
a long time counts in full unless it counted such a switch, and then only as far as the thread computed. The
thread's own clock costs up to 2.5 us (measured), so it is read only for a while after a long time was seen.
"""

from __future__ import annotations

import time
from typing import Final

#: A time is long, and looked into, above this; and counts this much at most, in seconds.
LONG: Final = 0.0005
LONGEST: Final = 0.002
#: For how many times the thread's clock is read after a long one.
_ALERT: Final = 8


def _switches() -> int:
    import resource  # late: a primary imports this module, and never measures

    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


class Preemptions:
    """Corrects the times for which one thread was busy, as the clock shows them."""

    __slots__ = ("_alert", "_computed", "_is_known", "_switches")

    def __init__(self) -> None:
        self._alert = 0
        self._switches = _switches()
        self._computed = 0.0
        self._is_known = False

    def begin(self) -> None:
        """A time begins, or the thread is about to wait for it."""
        if self._alert:
            self._alert -= 1
            self._is_known = True
            self._computed = time.thread_time()

    def busy(self, seconds: float) -> float:
        """How long the thread was busy in a time that took `seconds`, which is over `LONG`."""
        switches = _switches()
        was_preempted, self._switches = switches != self._switches, switches
        is_known, self._is_known = self._is_known, False
        self._alert = _ALERT
        if not was_preempted:
            return seconds
        return min(time.thread_time() - self._computed, seconds) if is_known else LONG


class BusyTime:
    """Adds up the turns of an event loop: `began` is when the last one did, `seconds` the sum so far."""

    __slots__ = ("_preemptions", "began", "seconds")

    def __init__(self, now: float) -> None:
        self._preemptions = Preemptions()
        self.began = now
        self.seconds = 0.0

    def end(self, now: float) -> None:
        """The turn has ended: the loop is about to wait. HOT: called in every turn."""
        turn = now - self.began
        if turn > LONG:
            turn = min(self._preemptions.busy(turn), LONGEST)
        self.seconds += turn
        self._preemptions.begin()
