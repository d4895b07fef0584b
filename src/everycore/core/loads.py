"""How busy the event loops of workers are of late.

Invariant: pure; it keeps the samples of a few seconds. Times are seconds, by the clock of whoever looks.
"""

from __future__ import annotations

from collections import deque
from typing import Final

#: How many samples are kept of a worker: with one a second, a share of so many seconds.
SAMPLES: Final = 6
#: Between two that are kept, at least.
STEP: Final = 0.9


class LoopShares:
    """Of each worker, when it was looked at and for how long its loop had been busy by then."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[tuple[float, float]]] = {}

    def look(self, worker: int, busy: float, now: float) -> None:
        """Its loop has been busy for so many seconds since it began."""
        samples = self._samples.setdefault(worker, deque(maxlen=SAMPLES))
        if not samples or now - samples[-1][0] >= STEP:
            samples.append((now, busy))

    def share(self, worker: int, busy: float, now: float) -> float | None:
        """The share of the last seconds, from 0 to 1; None: it was not looked at before."""
        samples = self._samples.get(worker)
        if not samples or now - samples[0][0] < STEP:
            return None
        at, before = samples[0]
        return min(max(busy - before, 0.0) / (now - at), 1.0)

    def forget(self, worker: int) -> None:
        """It is gone."""
        self._samples.pop(worker, None)
