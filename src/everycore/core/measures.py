"""What is counted of a service for metrics, as the primary tells it to the observer.

That asks for it (`core.control.AskMetrics`), and writes metrics of it. Invariant: pure; a count only rises.
Times are seconds.
"""

from __future__ import annotations

import msgspec

from everycore.core.control import ServiceStatus
from everycore.core.waits import WaitCounts


class WorkerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker has done. Its identity is in the `WorkerStatus` with that id.

    given_back: of the connections that it was handed, those that came back. requests: that its application
    was given, where that is counted. loop_busy: for which its event loop was
    busy; loop_late: by which the beats of that loop came late, added up; loop_lag: by which the next one is
    late now. All three None: no loop of ours runs there.
    """

    id: int
    given_back: int
    requests: int
    loop_busy: float | None
    loop_late: float | None
    loop_lag: float | None


class ListenerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What one listener has seen. waiting: connections in the kernel's backlog; None: not known.

    refused: accepted, and closed, for no worker could have them. lost: handed over, and not picked up when
    their worker ended.
    """

    address: str
    accepted: int
    queued: int
    waiting: int | None
    refused: int
    lost: int


class ServiceMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """A service at one moment, and what it has counted.

    ends: reason -> workers that ended for it. stalls: how often one was found stuck. reloads: how they ended
    -> how many.
    """

    status: ServiceStatus
    workers: tuple[WorkerCounts, ...]
    listeners: tuple[ListenerCounts, ...]
    hand_over: WaitCounts
    ends: dict[str, int]
    stalls: int
    reloads: dict[str, int]


class ObserverJob(msgspec.Struct, frozen=True, kw_only=True):
    """What an observer is told on its command line.

    line: the descriptor on which it asks the primary. listeners: those that it accepts on. tally: that of the
    workers' own metrics; -1: there is none. min_ready: so many workers have to be ready.
    """

    line: int = -1
    listeners: tuple[int, ...] = ()
    tally: int = -1
    min_ready: int = 1
    log_level: str = "info"
    log_file: str | None = None
    log_format: str = "text"
