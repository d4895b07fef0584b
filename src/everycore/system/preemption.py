"""How long a thread is busy, not counting the time that the kernel has given its CPU to other threads.

Where CPUs are scarce, the kernel takes the CPU from a thread for some milliseconds. On the clock, a turn of
the loop in which this happens looks as if a handler had blocked. Facts (getrusage(2), Linux): `ru_nivcsw`
counts these switches, but no waits that the thread chose, such as a sleep or a system call. So a long time
counts in full unless that counter has risen; then only the CPU time of the thread counts. Reading the
thread's own clock costs up to 2.5 us (measured), so it is read only for a while after a long time was seen.
"""

from __future__ import annotations

import time
from typing import Final

#: `LONG`: a longer time is examined. `LONGEST`: the most that such a time counts for. In seconds.
LONG: Final = 0.0005
LONGEST: Final = 0.002
#: The number of times for which the thread's clock is read after a long one.
_ALERT: Final = 8


def _switches() -> int:
    import resource  # late: a primary imports this module, and never measures

    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


class Preemptions:
    """Corrects the clock's measure of how long one thread was busy."""

    __slots__ = ("_alert", "_computed", "_is_known", "_switches")

    def __init__(self) -> None:
        self._alert = 0
        self._switches = _switches()
        self._computed = 0.0
        self._is_known = False

    def begin(self) -> None:
        """A time begins, or the thread is about to wait for one."""
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
    """Adds up the turns of an event loop. `began`: when the last turn did. `seconds`: the sum so far."""

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
