"""The decisions of a pool's supervisor in words, for the log and for errors."""

from __future__ import annotations

import logging
from collections.abc import Callable

from everycore.core import orders
from everycore.core.crew import RELOAD_SECONDS
from everycore.core.slots import SlotFailure
from everycore.core.supervisor import Supervisor
from everycore.errors import MoldFailed
from everycore.primary.listeners.postponed import Postponed
from everycore.system.sockets import describe


class SupervisionWords:
    """The words about one pool, in the present state of its supervisor."""

    def __init__(self, supervisor: Supervisor, postponed: Callable[[], Postponed]) -> None:
        self._supervisor = supervisor
        self._postponed = postponed

    def describe(self, failure: SlotFailure) -> str:
        """Why a worker did not become ready."""
        if failure.ends:
            intensity = self._supervisor.intensity
            return (
                f"all slots have failed: in each of them {intensity.ends} workers ended within"
                f" {intensity.seconds:g} s or before they were ready, and none serves; the last one was"
                f" worker {failure.worker}: {self._limit_text() if failure.overdue else failure.status}"
            )
        if not failure.worker:
            return self._describe_mold(failure)
        if failure.status is not None and isinstance(failure.status.error, MoldFailed):
            return failure.status.error.report
        if failure.overdue and self._supervisor.rollout.is_awaited:  # how long it had depends on the changes
            killed = "" if failure.status is None else ", and was killed"
            return f"worker {failure.worker} was not ready in time{killed}"
        if failure.status is None:
            return f"worker {failure.worker} was not ready within {RELOAD_SECONDS:g} s"
        if failure.overdue:
            return f"worker {failure.worker} was not ready within {self._limit():g} s, and was killed"
        told = self.address_in_use(failure.worker)
        why = "" if told is None else f"; {told}"
        return f"worker {failure.worker} ended before it was ready: {failure.status}{why}"

    def _describe_mold(self, failure: SlotFailure) -> str:
        if failure.status is None:
            return f"the new mold was not prepared within {self._limit():g} s"
        return str(failure.status.error)

    def address_in_use(self, worker: int) -> str | None:
        """The sentence about the address in use that this worker was told of; None without one."""
        key = self._postponed().in_use.get(worker)
        return None if key is None else f"{describe(key.address, key.family)} is in use by another process"

    def what_follows(self, *, serves: bool) -> str:
        """What follows a reload that has failed. `serves`: a worker is ready."""
        if not self._supervisor.rollout.is_awaited:
            return "replaced workers stay new, the others keep running"
        return f"{'the last good code keeps serving; ' * serves}waiting for changes"

    def replaced(self, action: orders.Replace, why: str | None = None) -> str:
        """Say that a worker has ended, and what becomes of its slot. `why`: why the primary ended it."""
        how = self._limit_text() if action.overdue else why or str(action.status)
        what = f"its slot is filled again in {action.delay:.1f} s"
        if action.delay == 0:
            what = "its successor is already starting"
        elif self._supervisor.rollout.failure is not None:
            what += f", with the code that is there now (reload {self._supervisor.rollout.generation} failed)"
        return f"worker {action.worker} (slot {action.slot}) ended: {how}; {what}"

    def told(
        self, action: orders.SlotFailed | orders.SlotWorks | orders.RecyclingFailed | orders.FailPool
    ) -> tuple[int, str]:
        """The level and the text of a log line."""
        match action:
            case orders.SlotFailed(ends, end):
                how = self._limit_text() if end.overdue else str(end.status)
                seconds, limit = self._supervisor.intensity.seconds, self._supervisor.backoff.limit
                return logging.ERROR, (
                    f"slot {end.slot} has failed: {ends} of its workers ended within {seconds:g} s or before"
                    f" they were ready, worker {end.worker} at last: {how}; it is retried about every"
                    f" {limit:g} s; the log says when it works"
                )
            case orders.SlotWorks(slot, worker, ends):
                return logging.INFO, f"slot {slot} works again with worker {worker}, after {ends} ends"
            case orders.FailPool(failure):
                return logging.DEBUG, f"giving up: {self.describe(failure)}"
            case orders.RecyclingFailed(worker, failure, delay):
                return logging.ERROR, (
                    f"{self.describe(failure)}; worker {worker}, which it was to replace, serves on, and is"
                    f" replaced in {delay:.1f} s at the earliest"
                )

    def _limit_text(self) -> str:
        return f"not ready within {self._limit():g} s, killed"

    def _limit(self) -> float:
        limit = self._supervisor.boot_timeout
        return RELOAD_SECONDS if limit is None else limit


def joined(report: str, follows: str) -> str:
    """What has happened and what follows, in one line. A traceback goes below it."""
    first, newline, _ = report.partition("\n")
    return f"{follows}:\n{report}" if newline else f"{first}; {follows}"
