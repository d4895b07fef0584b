"""How long to wait before a worker is started again, and when its slot counts as failed.

The wait follows from the count of consecutive failures. Invariant: pure; chance is an argument from 0 to 1.

The curve is PM2's (first wait, growth, limit, reset after 30 s), but doubles where PM2's grows by 1.5. Jitter
keeps workers that one cause brought down from coming back in step. The wait has a limit, and restarts never
end: once an application has run, its operator wants it back as soon as its database is, and not a cluster
that has ended meanwhile.
"""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Waits of `first` seconds, doubling up to `limit`, each ±`jitter`; reset after `healthy_after`."""

    first: float = 0.1
    limit: float = 15.0
    jitter: float = 0.2
    healthy_after: float = 30.0

    def failures(self, before: int, healthy_for: float) -> int:
        """Return the new count of consecutive failures, after `healthy_for` seconds of being ready."""
        return 1 if healthy_for >= self.healthy_after else before + 1

    def delay(self, failures: int, chance: float) -> float:
        """Return the seconds to wait after the n-th consecutive failure. `chance` is between 0 and 1."""
        # The count has no bound. 2**64 exceeds any limit and still fits a float.
        doubled = self.first * 2.0 ** min(failures - 1, 64)
        return min(doubled, self.limit) * (1 + self.jitter * (2 * chance - 1))

    def longest(self, chance: float) -> float:
        """Return the longest wait in seconds, for a slot that has failed often enough."""
        return self.limit * (1 + self.jitter * (2 * chance - 1))


class Intensity(msgspec.Struct, frozen=True):
    """A slot has *failed* if `ends` of its workers ended unasked within `seconds`; with None, never.

    It has also failed if that many in a row ended before they were ready, however long that took: on a busy
    machine, five failed starts may last longer than a minute.
    """

    ends: int | None = None
    seconds: float = 60.0
