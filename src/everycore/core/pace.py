"""How the connections of a shared listener come and go at one worker, and how strict its turns must be.

Invariant: pure. Times are in seconds of the caller's clock.

While cheap connections come fast and end as fast, the numbers that workers hold stay level without help.
Going to the end of the queue for a difference of one then costs 10 us a connection (measured): workers wake
each other in turn, and each finds a single connection.
"""

from __future__ import annotations

from typing import Final

from everycore.core.lanes import COSTLY

#: Connections come fast if more often than this, in seconds.
FAST: Final = 0.003
#: Others may then hold this many connections fewer, and the next one still be for this worker.
SLACK: Final = 8
#: The most connections between two looks. Fewer than half of them are not enough to judge by.
LOOK: Final = 32


class Pace:
    """The pace of one worker. The code that accepts a connection decrements `left` and calls `look` at 0.

    slack: how many connections fewer others may hold now.
    """

    __slots__ = ("_held", "_since", "_step", "is_fast", "left", "slack")

    def __init__(self) -> None:
        self.slack = 0
        self.is_fast = False
        self.begin(1, 0.0, 0)

    def begin(self, left: int, now: float, held: int) -> None:
        """Look again after `left` connections. `held`: how many the worker holds now."""
        self.left = self._step = left
        self._since = now
        self._held = held

    def follow(self, now: float, held: int, cost: float) -> None:
        """As `look`, and then look again after `LOOK` connections."""
        self.look(now, held, cost)
        self.begin(LOOK, now, held)

    def look(self, now: float, held: int, cost: float) -> None:
        """Judge the connections since `begin`. `cost`: the seconds that each took, on average."""
        self.is_fast = now - self._since < self._step * FAST and cost < COSTLY
        if self._step >= LOOK // 2:
            ends_as_fast = held - self._held < self._step // 2
            self.slack = SLACK if self.is_fast and ends_as_fast else 0
