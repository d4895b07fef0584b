"""How busy the workers' event loops have been in the last seconds.

Invariant: pure; it keeps the samples of a few seconds. Times are in seconds of the caller's clock.
"""

from __future__ import annotations

from collections import deque
from typing import Final

#: Samples kept per worker. With one sample a second, a share covers this many seconds.
SAMPLES: Final = 6
#: Seconds between two samples that are kept, at least.
STEP: Final = 0.9


class LoopShares:
    """The samples of each worker: when it was looked at, and how long its loop had been busy by then."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[tuple[float, float]]] = {}

    def look(self, worker: int, busy: float, now: float) -> None:
        """Record that the loop of `worker` has been busy for `busy` seconds since it began."""
        samples = self._samples.setdefault(worker, deque(maxlen=SAMPLES))
        if not samples or now - samples[-1][0] >= STEP:
            samples.append((now, busy))

    def share(self, worker: int, busy: float, now: float) -> float | None:
        """Return the busy share of the last seconds, from 0 to 1, or None without an earlier sample."""
        samples = self._samples.get(worker)
        if not samples or now - samples[0][0] < STEP:
            return None
        at, before = samples[0]
        return min(max(busy - before, 0.0) / (now - at), 1.0)

    def forget(self, worker: int) -> None:
        """`worker` is gone."""
        self._samples.pop(worker, None)
