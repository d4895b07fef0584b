"""The pace of connections from a shared listener at one worker, and whether the worker may ignore the order.

Invariant: pure. Times are in seconds of the caller's clock.

While cheap connections come fast and end as fast, the workers hold equal numbers by themselves. To go to the
end of the queue for a difference of one would cost 10 us per connection (measured): the workers would wake
each other in turn, and each would find a single connection.
"""

from __future__ import annotations

from typing import Final

from everycore.core.lanes import COSTLY

#: The pace is fast if the time between two connections is below this, in seconds.
FAST: Final = 0.003
#: By how many connections other workers may hold fewer while the pace is fast, before this one leaves its
#: place.
SLACK: Final = 8
#: The most connections between two looks. Fewer than half of them show nothing.
LOOK: Final = 32


class Pace:
    """The pace of one worker. The code that accepts a connection counts `left` down, and calls `look` at 0.

    slack: by how many connections other workers may hold fewer now.
    """

    __slots__ = ("_held", "_since", "_step", "is_fast", "left", "slack")

    def __init__(self) -> None:
        self.slack = 0
        self.is_fast = False
        self.begin(1, 0.0, 0)

    def begin(self, left: int, now: float, held: int) -> None:
        """Begin to measure: the next look is due after `left` connections.

        `held`: how many the worker holds.
        """
        self.left = self._step = left
        self._since = now
        self._held = held

    def follow(self, now: float, held: int, cost: float) -> None:
        """As `look`; the next look is due after `LOOK` connections."""
        self.look(now, held, cost)
        self.begin(LOOK, now, held)

    def look(self, now: float, held: int, cost: float) -> None:
        """Judge the connections since `begin`. `cost`: the average time that each took, in seconds."""
        self.is_fast = now - self._since < self._step * FAST and cost < COSTLY
        if self._step >= LOOK // 2:
            ends_as_fast = held - self._held < self._step // 2
            self.slack = SLACK if self.is_fast and ends_as_fast else 0
