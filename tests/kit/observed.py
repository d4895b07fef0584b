"""Invented data about a service, as the observer gets them."""

from typing import Any

from everycore.core.control import ServiceStatus, SlotStatus, WorkerStatus
from everycore.core.measures import ListenerCounts, ServiceMetrics, WorkerCounts
from everycore.core.waits import WaitHistogram


def worker(
    number: int,
    *,
    is_ready: bool = True,
    state: str = "listening",
    pid: int | None = None,
    stuck: float | None = None,
):
    return WorkerStatus(
        id=number, slot=number - 1, generation=0, pid=pid, state=state, is_ready=is_ready, age=5.0, open=2,
        handed_over=10 * number, outstanding=1, share=0.5, rss=1 << 20, stuck=stuck,
    )  # fmt: skip


def status(*workers: WorkerStatus, state: Any = "running", size: int = 2) -> ServiceStatus:
    slots = tuple(
        SlotStatus(slot=slot, workers=(), is_failed=slot == 1, restarts=slot, last_end=None, ended_at=None)
        for slot in range(size)
    )
    return ServiceStatus(
        name='sh"op\\\n', kind="serve", pid=1, version="0.1.0", state=state, started_at=1000.0, uptime=5.0,
        size=size, generation=3, reload=None, workers=workers, slots=slots, listeners=(),
    )  # fmt: skip


def metrics(told: ServiceStatus) -> ServiceMetrics:
    waits = WaitHistogram()
    for seconds in (0.00004, 0.00004, 0.02, 99.0):
        waits.add(seconds)
    return ServiceMetrics(
        status=told,
        workers=tuple(
            WorkerCounts(
                id=one.id, given_back=1, requests=7, loop_busy=1.5 if one.id == 1 else None,
                loop_late=0.5 if one.id == 1 else None, loop_lag=0.0 if one.id == 1 else None,
            )
            for one in told.workers
        ),
        listeners=(
            ListenerCounts(address="127.0.0.1:80", accepted=20, queued=1, waiting=4, refused=2, lost=1),
            ListenerCounts(address="unix:/x", accepted=5, queued=0, waiting=None, refused=0, lost=0),
        ),
        hand_over=waits.now(),
        ends={"asked": 2, "killed by SIGKILL": 1},
        stalls=1,
        reloads={"done": 3, "failed": 0},
    )  # fmt: skip
