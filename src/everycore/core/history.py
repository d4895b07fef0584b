"""What has become of the workers of a service: since when each is there, how the last of a slot ended.

For whoever looks at a service from outside (`core.control`). Invariant: pure; it grows with the slots and the
live workers alone. Times are seconds, by the caller's clock.
"""

from __future__ import annotations

import msgspec


class SlotHistory(msgspec.Struct):
    """One slot. restarts: ends that nobody had asked for. ended_at: the date of the last end."""

    restarts: int = 0
    last_end: str | None = None
    ended_at: float | None = None


class History:
    """The workers of one service."""

    def __init__(self) -> None:
        self.slots: dict[int, SlotHistory] = {}
        self._since: dict[int, float] = {}
        self._ready: set[int] = set()
        #: Some worker was ready once.
        self.was_ready = False

    def forked(self, worker: int, now: float) -> None:
        """A worker was started."""
        self._since[worker] = now

    def ready(self, worker: int) -> None:
        """It takes connections."""
        self._ready.add(worker)
        self.was_ready = True

    def exited(self, worker: int, slot: int, how: str, at: float, *, voluntary: bool) -> bool:
        """It is gone, at the date `at`. Returns whether it was ready before."""
        self._since.pop(worker, None)
        was_ready = worker in self._ready
        self._ready.discard(worker)
        found = self.slots.setdefault(slot, SlotHistory())
        found.restarts += not voluntary
        found.last_end = how if not voluntary else f"{how} (as asked)"
        found.ended_at = at
        return was_ready

    def age(self, worker: int, now: float) -> float:
        """For how long it is there."""
        return max(now - self._since.get(worker, now), 0.0)
