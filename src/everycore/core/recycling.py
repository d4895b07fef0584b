"""Which worker is replaced next because it has reached a limit: of requests, connections, memory or age.

Rules:
* Each worker has limits of its own, up to `JITTER` above or below those that are set: workers that are given
  the same number of connections do not reach them in the same moment.
* One at a time, and none during a reload, which replaces all. The others wait and serve on.
* As in a reload, the new worker is ready before the old one leaves; with a surge of 0 the old one leaves
  first.
* A new worker that does not become ready leaves the old one where it is. It is tried again, with back-off.
* Memory counts when it was above the limit `MEMORY_SAMPLES` times in a row: a peak is no leak.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from everycore.core.slots import Slot
from everycore.settings import check_count, check_seconds

#: The part of a limit by which it is higher or lower for one worker.
JITTER: Final = 0.1
MEMORY_SAMPLES: Final = 3


class RecyclingLimits(msgspec.Struct, frozen=True):
    """When a worker is replaced; None: never for that. Seconds and bytes.

    max_requests_jitter: up to so many requests are added at random, in place of `JITTER`; None: not so.
    """

    max_requests: int | None = None
    max_requests_jitter: int | None = None
    max_connections: int | None = None
    max_lifetime: float | None = None
    max_memory: int | None = None

    @property
    def is_on(self) -> bool:
        """Whether there is any."""
        return any(
            limit is not None
            for limit in (self.max_requests, self.max_connections, self.max_lifetime, self.max_memory)
        )

    def of_worker(self, chance: float) -> RecyclingLimits:
        """The limits of one worker. `chance` is between 0 and 1."""
        factor = 1 + JITTER * (2 * chance - 1)
        requests, jitter = self.max_requests, self.max_requests_jitter
        if requests is None or jitter is None:
            requests = _about(requests, factor)
        else:
            requests += round(jitter * chance)
        return RecyclingLimits(
            max_requests=requests,
            max_connections=_about(self.max_connections, factor),
            max_lifetime=None if self.max_lifetime is None else self.max_lifetime * factor,
            max_memory=_about(self.max_memory, factor),
        )


def _about(limit: int | None, factor: float) -> int | None:
    return None if limit is None else max(1, round(limit * factor))


def recycling_limits(
    max_requests: int | None = None,
    max_requests_jitter: int | None = None,
    max_connections: int | None = None,
    max_lifetime: float | None = None,
    max_memory: int | None = None,
) -> RecyclingLimits:
    """The limits that are given as settings; 0 is without. Raises ConfigurationError."""

    def count(name: str, value: int | None) -> int | None:
        return None if value is None else check_count(name, value, least=0) or None

    jitter = max_requests_jitter
    return RecyclingLimits(
        max_requests=count("max_requests", max_requests),
        max_requests_jitter=None if jitter is None else check_count("max_requests_jitter", jitter, least=0),
        max_connections=count("max_connections", max_connections),
        max_lifetime=None if max_lifetime is None else check_seconds("max_lifetime", max_lifetime) or None,
        max_memory=count("max_memory", max_memory),
    )


class Usage(msgspec.Struct, frozen=True):
    """What a worker has done so far.

    lifetime: seconds since it was ready. memory: bytes; None: nobody has looked now.
    """

    requests: int = 0
    connections: int = 0
    lifetime: float = 0.0
    memory: int | None = None


class Aging(msgspec.Struct):
    """One worker and its own limits."""

    limits: RecyclingLimits
    over: int = 0
    """So many samples of its memory, the last ones, were above the limit."""

    def reached(self, usage: Usage) -> str | None:
        """The limit that it has reached, in words; None: none."""
        limits = self.limits
        if usage.memory is not None and limits.max_memory is not None:
            self.over = self.over + 1 if usage.memory > limits.max_memory else 0
        if limits.max_requests is not None and usage.requests >= limits.max_requests:
            return f"{usage.requests} requests (max_requests)"
        if limits.max_connections is not None and usage.connections >= limits.max_connections:
            return f"{usage.connections} connections (max_connections)"
        if limits.max_lifetime is not None and usage.lifetime >= limits.max_lifetime:
            return f"{usage.lifetime:.0f} s (max_lifetime)"
        if self.over >= MEMORY_SAMPLES and usage.memory is not None:
            return f"{usage.memory / 2**20:.0f} MiB (max_memory)"
        return None


class Recycler(msgspec.Struct):
    """The workers of a pool that wait to be replaced, and the one whose turn it is."""

    failures: int = 0
    """How often in a row a replacement has failed."""
    resume_at: float | None = None
    """None is replaced before, for a replacement has just failed."""
    _waiting: dict[int, str] = msgspec.field(default_factory=dict)
    _slot: int | None = None
    _worker: int | None = None

    def ask(self, worker: int, why: str) -> None:
        """`worker` is to be replaced; again: nothing."""
        self._waiting.setdefault(worker, why)

    def is_replacing(self, slot: Slot) -> bool:
        """Whether it is the turn of this slot's occupant."""
        return (
            slot.number == self._slot and slot.occupant is not None and slot.occupant.worker == self._worker
        )

    def let_time_pass(self, now: float) -> None:
        """The wait after a failure ends when its time has come."""
        if self.resume_at is not None and now >= self.resume_at:
            self.resume_at = None

    def next(self, slots: Mapping[int, Slot]) -> tuple[Slot, str] | None:
        """The slot whose occupant is to be replaced now, and why. `slots`: those that are wanted."""
        occupants = {slot.occupant.worker: slot for slot in slots.values() if slot.occupant is not None}
        self._waiting = {worker: why for worker, why in self._waiting.items() if worker in occupants}
        if not self._waiting:
            self.resume_at = None
        if self._is_under_way(slots) or self.resume_at is not None:
            return None
        self._slot = self._worker = None
        for worker, why in self._waiting.items():
            slot = occupants[worker]
            occupant = slot.occupant
            if slot.has_room and occupant is not None and not occupant.is_dismissed:
                self._slot, self._worker = slot.number, worker
                return slot, why
        return None

    def failed(self, now: float, delay: float) -> None:
        """The replacement did not become ready; it is tried again after `delay` seconds."""
        self.failures += 1
        self.resume_at = now + delay

    def succeeded(self) -> None:
        """A new worker is ready."""
        self.failures = 0

    def _is_under_way(self, slots: Mapping[int, Slot]) -> bool:
        """Whether the new worker is still to become ready, or, where the old one leaves first, to come."""
        slot = None if self._slot is None else slots.get(self._slot)
        if slot is None:
            return False
        if slot.successor is not None or slot.occupant is None:
            return not slot.has_failed
        if slot.occupant.worker == self._worker:
            return slot.occupant.is_dismissed and slot.leaver is None
        return slot.occupant.is_booting
