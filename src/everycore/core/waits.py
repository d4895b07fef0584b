"""How long connections waited to be picked up: a histogram that the lanes fill if metrics are on.

Invariant: pure; a count only rises.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import msgspec

#: The buckets' upper bounds, in seconds: a pick-up takes about 50 µs, a recall begins after 20 ms.
BOUNDS: Final = (
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip


class WaitCounts(msgspec.Struct, frozen=True, kw_only=True):
    """A histogram at one moment. `counts` has one more than `bounds`; `total` is the sum of all waits."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class WaitHistogram:
    """How long connections waited. HOT: `add` runs once per connection if metrics are on."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = 0.0

    def add(self, seconds: float) -> None:
        """Count a connection that waited for `seconds`."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._total += seconds

    def now(self) -> WaitCounts:
        """Return the counts so far."""
        return WaitCounts(bounds=BOUNDS, counts=tuple(self._counts), total=self._total)
