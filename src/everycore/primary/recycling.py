"""Checks what the workers of a pool have done so far: the driver of the limits of `core.recycling`.

Invariant: a timer runs only while there is a limit and a ready worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from everycore.aio.deadline import Deadline
from everycore.core.recycling import Aging, RecyclingLimits, Usage
from everycore.primary.cluster import Cluster
from everycore.primary.driver import driver_of
from everycore.system import chance
from everycore.worker_face import Worker

#: How often workers are checked, and how often their memory is, in seconds.
STEP: Final = 1.0
MEMORY_STEP: Final = 10.0


class _Known(msgspec.Struct):
    """A ready worker that has reached no limit. looked: when its memory was last checked."""

    aging: Aging
    since: float
    looked: float


class AgeWatch:
    """`reached(worker, why)` is called once for each worker that has reached a limit."""

    def __init__(
        self,
        cluster: Cluster,
        workers: Mapping[int, Worker],
        limits: RecyclingLimits,
        reached: Callable[[int, str], object],
    ) -> None:
        #: The limits of workers that become ready from now on.
        self.limits = limits
        self._cluster = cluster
        self._workers = workers
        self._reached = reached
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop, self._look)
        self._known: dict[int, _Known] = {}

    def ready(self, worker: int) -> None:
        """Note that the worker gets connections from now on."""
        if self.limits.is_on:
            now = self._loop.time()
            self._known[worker] = _Known(Aging(self.limits.of_worker(chance.fraction())), now, now)
            if self._deadline.due is None:
                self._deadline.set_in(STEP)

    def close(self) -> None:
        """Stop checking: the pool has ended."""
        self._deadline.set(None)

    def _look(self) -> None:
        now = self._loop.time()
        self._known = {number: it for number, it in self._known.items() if self._is_serving(number)}
        reached = [
            (number, it.aging.reached(self._usage(number, it, now))) for number, it in self._known.items()
        ]
        for number, why in reached:
            if why is not None:
                del self._known[number]
                self._reached(number, why)
        self._deadline.set(now + STEP if self._known else None)

    def _is_serving(self, number: int) -> bool:
        worker = self._workers.get(number)
        return worker is not None and worker.is_ready

    def _usage(self, number: int, it: _Known, now: float) -> Usage:
        worker = self._workers[number]
        memory, limit = None, it.aging.limits.max_memory
        if limit is not None and now - it.looked >= MEMORY_STEP:
            it.looked = now
            memory = driver_of(worker).process.memory(limit)
        return Usage(
            requests=driver_of(worker).seat.requests,
            connections=driver_of(worker).account()[0],
            lifetime=now - it.since,
            memory=memory,
        )
