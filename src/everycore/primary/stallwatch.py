"""Watches the workers of a pool for progress: the driver of `core.stalls`.

It reads the board, the hand-overs and /proc, and carries out the decisions. Invariant: a timer runs only
while a worker is watched.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Mapping

import msgspec

from everycore.aio.deadline import Deadline
from everycore.core import stalls
from everycore.core.loads import LoopShares
from everycore.core.stalls import Seen, StallLimits, Stalls, Symptoms
from everycore.events import Stalled
from everycore.primary.cluster import Cluster
from everycore.primary.driver import driver_of
from everycore.system.activity import Activity
from everycore.system.stacks import STACKS
from everycore.worker_face import Worker

log = logging.getLogger("everycore.primary")


class StallWatch:
    """`workers`: those of the pool, by id. They are watched once they are ready."""

    def __init__(self, cluster: Cluster, workers: Mapping[int, Worker], limits: StallLimits) -> None:
        self._cluster = cluster
        self._workers = workers
        self._stalls = Stalls(limits)
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop, self._look)
        #: Aborted workers -> the seconds for which each was stuck.
        self._ended: dict[int, float] = {}
        self._shares = LoopShares()
        self.change(limits)

    def change(self, limits: StallLimits) -> None:
        """Use other limits for workers that are started from now on."""
        self._stalls.limits = limits
        terms = self._cluster._runtime.terms
        self._cluster._runtime.terms = msgspec.structs.replace(
            terms, beat=limits.interval or terms.least_beat
        )

    def ready(self, worker: int) -> None:
        """Note that the worker gets connections from now on."""
        self._stalls.watch(worker, self._loop.time())
        if self._deadline.due is None:
            self._set()

    def begin_anew(self) -> None:
        """Start the watch anew: all workers were stopped, and continue."""
        self._stalls.begin_anew(self._loop.time())

    def exited(self, worker: int) -> str | None:
        """Note that the worker has ended. Returns why, if it was aborted here."""
        self._shares.forget(worker)
        seconds = self._ended.pop(worker, None)
        return None if seconds is None else f"stuck for {seconds:.1f} s, aborted"

    def busy(self, worker: int) -> float | None:
        """The share of the last seconds in which the worker's loop was busy; None if it is unknown."""
        busy = self._busy(worker)
        return None if busy is None else self._shares.share(worker, busy, time.monotonic())

    def stuck_for(self, worker: int) -> float | None:
        """As `core.stalls`."""
        return self._stalls.stuck_for(worker, self._loop.time())

    def _busy(self, worker: int) -> float | None:
        """Seconds so far. A loop that is late for its beat is busy, or blocked."""
        found = self._workers.get(worker)
        times = None if found is None else driver_of(found).seat.loop_times
        if times is None:
            return None
        beat = self._cluster._runtime.terms.beat
        return times.busy + max(time.monotonic() - times.beat - beat, 0.0)

    def close(self) -> None:
        """Stop watching: the pool has ended."""
        self._deadline.set(None)

    def _set(self) -> None:
        step = self._stalls.next_look
        self._deadline.set(None if step is None else self._loop.time() + step)

    def _look(self) -> None:
        runtime = self._cluster._runtime
        seen = {
            number: Seen(driver_of(worker).seat.beat, runtime.switchboard.oldest(number))
            for number, worker in self._workers.items()
            if worker.is_ready
        }
        for number in seen:
            if (busy := self._busy(number)) is not None:
                self._shares.look(number, busy, time.monotonic())
        try:
            for action in self._stalls.look(seen, self._activity, self._loop.time()):
                self._perform(action)
        finally:
            self._set()

    def _activity(self, number: int) -> Activity | None:
        return driver_of(self._workers[number]).process.activity()

    def _perform(self, action: stalls.StallAction) -> None:
        match action:
            case stalls.Dump(symptoms):
                self._dump(symptoms, "")
            case stalls.Condemn(symptoms):
                self._ended[symptoms.worker] = symptoms.seconds
                self._dump(symptoms, "it is aborted; ")
            case stalls.Abort(number):
                self._workers[number].kill(signal.SIGABRT)
            case stalls.KillStuck(number):
                self._workers[number].kill(signal.SIGKILL)
            case stalls.Recovered(number, seconds):
                self._ended.pop(number, None)
                log.warning("worker %d makes progress again, after %.1f s", number, seconds)

    def _dump(self, symptoms: Symptoms, what_follows: str) -> None:
        worker = self._workers[symptoms.worker]
        process = driver_of(worker).process
        stacks = "the stacks of its threads follow"
        if symptoms.is_stopped:
            stacks = "it is stopped (SIGSTOP), so it cannot print its stacks"
        elif not process.hears(STACKS):
            stacks = "it does not import everycore, or handles that signal itself, so it prints no stacks"
        log.error(
            "worker %d (slot %d, pid %s) is stuck: no progress for %.1f s%s; %s%s",
            worker.id,
            worker.slot,
            worker.pid,
            symptoms.seconds,
            _circumstances(symptoms),
            what_follows,
            stacks,
        )
        if not symptoms.is_stopped and process.hears(STACKS):
            process.signal(STACKS)
        self._cluster._log.emit_about(worker, Stalled, seconds=symptoms.seconds)


def _circumstances(symptoms: Symptoms) -> str:
    """What may tell a loop that computes from one that waits."""
    told = [] if symptoms.cpu is None else [f"computing for {symptoms.cpu:.1f} s of them"]
    if symptoms.starved >= 1:
        told.append(f"waiting for a processor for {symptoms.starved:.1f} s")
    return f" ({', '.join(told)})" if told else ""
