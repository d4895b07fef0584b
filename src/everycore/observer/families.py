"""Makes the metrics of the catalogue from what the primary has counted, and from /proc.

Invariant: every sample belongs to a metric of the catalogue, and has its labels.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client import Metric

from everycore.core.control import ServiceStatus, WorkerStatus
from everycore.core.measures import ServiceMetrics
from everycore.core.waits import WaitCounts
from everycore.observer.catalogue import CATALOGUE, PREFIX, Described
from everycore.system.memory import proportional_bytes
from everycore.system.resident import cpu_seconds, resident_bytes

#: How long a measured PSS is used, in seconds: to measure it, the kernel walks all pages.
PSS_STEP: Final = 10.0
#: The metric's word for each state of a worker that is not ready.
_STATES: Final = {"none": "starting", "online": "starting", "listening": "starting", "draining": "draining"}
_ENDING: Final = "ending"


class Shares:
    """The PSS of the workers, measured from time to time."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, int | None]] = {}

    def of(self, pids: list[int], now: float) -> dict[int, int | None]:
        """Pid -> bytes, or None if the PSS cannot be read. now: in seconds, by any clock."""
        kept = {pid: self._known[pid] for pid in pids if pid in self._known}
        for pid in pids:
            if pid not in kept or now - kept[pid][0] >= PSS_STEP:
                kept[pid] = now, proportional_bytes(pid)
        self._known = kept
        return {pid: share for pid, (_, share) in kept.items()}


class _Families:
    """The metrics of one scrape."""

    def __init__(self) -> None:
        self.found: dict[str, Metric] = {}

    def add(self, name: str, value: float | None, *labels: object, suffix: str = "") -> None:
        """Add a sample; none if `value` is None, that is, unknown. labels: the label values, in order."""
        described = CATALOGUE[name]
        family = self.found.get(name)
        if family is None:
            family = self.found[name] = Metric(PREFIX + name, described.help, described.kind)
        if value is not None:
            known = dict(zip(described.labels, map(str, labels), strict=True))
            family.add_sample(PREFIX + name + (suffix or _suffix(described)), known, float(value))

    def add_histogram(self, name: str, counts: WaitCounts) -> None:
        """Add a histogram without labels."""
        described = CATALOGUE[name]
        family = self.found[name] = Metric(PREFIX + name, described.help, described.kind)
        total = 0
        for bound, count in zip((*counts.bounds, float("inf")), counts.counts, strict=True):
            total += count
            family.add_sample(f"{PREFIX}{name}_bucket", {"le": _upper_end(bound)}, total)
        family.add_sample(f"{PREFIX}{name}_count", {}, total)
        family.add_sample(f"{PREFIX}{name}_sum", {}, counts.total)


def _upper_end(bound: float) -> str:
    """The bound in the text format: `0.005`, `1.0`, `+Inf`."""
    return "+Inf" if bound == float("inf") else repr(bound)


def _suffix(described: Described) -> str:
    return {"counter": "_total", "info": "_info"}.get(described.kind, "")


def families(metrics: ServiceMetrics, shares: Shares) -> Iterator[Metric]:
    """Make all metrics of a service."""
    found = _Families()
    _service(found, metrics)
    _listeners(found, metrics)
    _workers(found, metrics, shares)
    for who, pid in (("primary", metrics.status.pid), ("observer", os.getpid())):
        found.add(f"{who}_cpu_seconds", cpu_seconds(pid))
        found.add(f"{who}_resident_memory_bytes", resident_bytes(pid))
    yield from found.found.values()


def _service(found: _Families, metrics: ServiceMetrics) -> None:
    status = metrics.status
    found.add("build", 1, status.version, platform.python_version())
    found.add("service", 1, status.name, status.kind)
    found.add("start_time_seconds", status.started_at)
    found.add("stopping", status.state == "stopping")
    found.add("generation", status.generation)
    for result, count in metrics.reloads.items():
        found.add("reloads", count, result)
    found.add("workers_wanted", status.size)
    states = Counter(state_of(worker) for worker in status.workers)
    for state in ("starting", "ready", "draining", _ENDING):
        found.add("workers", states[state], state)
    found.add("slots_failed", sum(slot.is_failed for slot in status.slots))
    for reason, count in sorted(metrics.ends.items()):
        found.add("worker_ends", count, reason)
    for slot in status.slots:
        found.add("worker_restarts", slot.restarts, slot.slot)
    found.add("worker_stalls", metrics.stalls)


def _listeners(found: _Families, metrics: ServiceMetrics) -> None:
    sums: dict[str, Counter[str]] = {}
    for listener in metrics.listeners:
        one = sums.setdefault(listener.address, Counter())
        one.update({name: getattr(listener, name) or 0 for name in ("accepted", "refused", "lost", "queued")})
        if listener.waiting is not None:
            one["waiting"] += listener.waiting
    for address, counts in sums.items():
        for outcome in ("accepted", "refused", "lost"):
            found.add("listener_connections", counts[outcome], address, outcome)
        found.add("listener_queued", counts["queued"], address)
        found.add("listener_backlog", counts.get("waiting"), address)
    found.add_histogram("hand_over_wait_seconds", metrics.hand_over)


def _workers(found: _Families, metrics: ServiceMetrics, shares: Shares) -> None:
    status = metrics.status
    counts = {worker.id: worker for worker in metrics.workers}
    known = shares.of([worker.pid for worker in status.workers if worker.pid is not None], time.monotonic())
    for worker in status.workers:
        who = worker.id, worker.slot, worker.generation
        found.add("worker_connections", worker.handed_over, *who, "handed_over")
        found.add("worker_connections_open", worker.open, *who)
        found.add("worker_connections_outstanding", worker.outstanding, *who)
        found.add("worker_ready", worker.is_ready, *who)
        found.add("worker_full", worker.is_full, *who)
        found.add("worker_stuck_seconds", worker.stuck or 0.0, *who)
        found.add("worker_age_seconds", worker.age, *who)
        if (more := counts.get(worker.id)) is not None:
            found.add("worker_connections", more.given_back, *who, "given_back")
            found.add("worker_requests", more.requests, *who)
            found.add("worker_loop_busy_seconds", more.loop_busy, *who)
            found.add("worker_loop_late_seconds", more.loop_late, *who)
            found.add("worker_loop_lag_seconds", more.loop_lag, *who)
        found.add("worker_resident_memory_bytes", worker.rss, *who)
        if worker.pid is not None:
            found.add("worker_cpu_seconds", cpu_seconds(worker.pid), *who)
            found.add("worker_proportional_memory_bytes", known.get(worker.pid), *who)


def state_of(worker: WorkerStatus) -> str:
    """The state of a worker: starting, ready, draining or ending."""
    return "ready" if worker.is_ready else _STATES.get(worker.state, _ENDING)


def count_ready(status: ServiceStatus) -> int:
    """How many workers are given connections, without those that are stuck."""
    return sum(worker.is_ready and worker.stuck is None for worker in status.workers)
