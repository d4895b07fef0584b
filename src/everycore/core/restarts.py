"""How long to wait before a worker is started again, and when its slot counts as failed.

One number from the count of failures in a row. Invariant: pure; chance comes in as a number from 0 to 1.

The curve is PM2's (first wait, growth, limit, reset after 30 s), with doubling in place of its factor 1.5
and with jitter, so that workers felled by one cause do not come back in step. A limit in place of giving up:
once an application has run, an operator wants it back when its database is, not a cluster that has ended
meanwhile.
"""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Waits of `first` seconds, doubling up to `limit`, each ±`jitter`; anew after `healthy_after`."""

    first: float = 0.1
    limit: float = 15.0
    jitter: float = 0.2
    healthy_after: float = 30.0

    def failures(self, before: int, healthy_for: float) -> int:
        """The count of failures in a row, this one included, after `healthy_for` seconds of being ready."""
        return 1 if healthy_for >= self.healthy_after else before + 1

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row (1: the first). `chance` is between 0 and 1."""
        # 2**64 exceeds any limit, and a float can hold it; the count itself has no bound.
        doubled = self.first * 2.0 ** min(failures - 1, 64)
        return min(doubled, self.limit) * (1 + self.jitter * (2 * chance - 1))

    def longest(self, chance: float) -> float:
        """Seconds to wait where it has been tried often enough."""
        return self.limit * (1 + self.jitter * (2 * chance - 1))


class Intensity(msgspec.Struct, frozen=True):
    """A slot has *failed* when `ends` of its workers ended unasked within `seconds`; None: it never has."""

    ends: int | None = None
    seconds: float = 60.0
