"""The history of a service's workers: since when each one runs, and how the last one of each slot ended.

The history is for those who observe a service from outside (`core.control`). Invariant: pure; its size
depends only on the slots and the live workers. Times are in seconds of the caller's clock.
"""

from __future__ import annotations

import msgspec


class SlotHistory(msgspec.Struct):
    """One slot. restarts: how many workers ended unasked. ended_at: when the last one ended, as a date."""

    restarts: int = 0
    last_end: str | None = None
    ended_at: float | None = None


class History:
    """The workers of one service."""

    def __init__(self) -> None:
        self.slots: dict[int, SlotHistory] = {}
        self._since: dict[int, float] = {}
        self._ready: set[int] = set()
        #: Whether any worker was ever ready.
        self.was_ready = False
        #: Reason -> how many workers ended for it, in slots or not.
        self.ends: dict[str, int] = {}
        #: How often a worker was found stuck.
        self.stalls = 0
        #: How reloads ended, done or failed -> how many.
        self.reloads = {"done": 0, "failed": 0}
        #: Worker -> the reason for its coming end, if that is known beforehand.
        self._reasons: dict[int, str] = {}

    def forked(self, worker: int, now: float) -> None:
        """A worker was started."""
        self._since[worker] = now

    def ready(self, worker: int) -> None:
        """`worker` takes connections."""
        self._ready.add(worker)
        self.was_ready = True

    def stalled(self, worker: int) -> None:
        """`worker` was found stuck. If it ends unasked, that is the reason."""
        self.stalls += 1
        self._reasons[worker] = "stalled"

    def recycled(self, worker: int) -> None:
        """`worker` has reached a limit, and is asked to leave."""
        self._reasons[worker] = "recycled"

    def reloaded(self, *, is_done: bool) -> None:
        """A reload has ended."""
        self.reloads["done" if is_done else "failed"] += 1

    def exited(self, worker: int, slot: int, how: str, at: float, *, voluntary: bool) -> bool:
        """`worker` ended at the date `at`. Returns whether it had been ready."""
        self._since.pop(worker, None)
        was_ready = worker in self._ready
        self._ready.discard(worker)
        reason = _reason(how, self._reasons.pop(worker, None), voluntary=voluntary)
        self.ends[reason] = self.ends.get(reason, 0) + 1
        found = self.slots.setdefault(slot, SlotHistory())
        found.restarts += not voluntary
        found.last_end = (
            f"{how}{' (as asked)' if voluntary else '' if was_ready else ', before it was ready'}"
        )
        found.ended_at = at
        return was_ready

    def age(self, worker: int, now: float) -> float:
        """Return for how many seconds `worker` has been there."""
        return max(now - self._since.get(worker, now), 0.0)


def _reason(how: str, known: str | None, *, voluntary: bool) -> str:
    """Return why a worker ended, in a few words, so that few reasons differ."""
    if voluntary:
        return "recycled" if known == "recycled" else "asked"
    if known == "stalled" and how in ("killed by SIGABRT", "killed by SIGKILL"):
        return known
    return how.partition(":")[0].partition(",")[0]
