"""Which request to stop a signal is: the first one asks, the second one insists.

Job: count requests, not signals. Invariant: nobody who asks once is taken to insist. Must not import anything
with I/O or a clock: `now` is an argument, in seconds.
"""

from __future__ import annotations

from typing import Final

#: The same signal again within so many seconds is the same request: GNU timeout, for one, signals its child
#: and then the process group that the child is in.
SAME_REQUEST: Final = 0.1


class StopRequests:
    """Those that have come to one process."""

    def __init__(self) -> None:
        self._count = 0
        self._last: tuple[int, float] | None = None

    def take(self, number: int, now: float) -> int:
        """`number` came: the how manieth request it is, from 1; 0, the last one again."""
        last, self._last = self._last, (number, now)
        if last is not None and last[0] == number and now - last[1] < SAME_REQUEST:
            return 0
        self._count += 1
        return self._count
