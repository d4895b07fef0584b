"""The counts of a service that the primary reports to the observer.

The observer asks for them (`core.control.AskMetrics`) and turns them into metrics. Invariant: pure; a count
only rises. Times are in seconds.
"""

from __future__ import annotations

import msgspec

from everycore.core.control import ServiceStatus
from everycore.core.waits import WaitCounts


class WorkerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one worker. Its identity is in the `WorkerStatus` with the same id.

    given_back: how many of the connections that it was handed came back.
    requests: how many its application was given, where requests are counted.
    loop_busy: seconds for which its event loop was busy.
    loop_late: seconds by which the beats of that loop came late, added up.
    loop_lag: seconds by which the next beat is late now.

    The last three are None if no event loop of everycore's runs in the worker.
    """

    id: int
    given_back: int
    requests: int
    loop_busy: float | None
    loop_late: float | None
    loop_lag: float | None


class ListenerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one listener.

    waiting: connections in the kernel's backlog; None if unknown.
    refused: connections that were accepted and then closed because no worker could have them.
    lost: connections that were handed over and not picked up when their worker ended.
    """

    address: str
    accepted: int
    queued: int
    waiting: int | None
    refused: int
    lost: int


class ServiceMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """A service at one moment, with its counts.

    ends: reason -> how many workers ended for it.
    stalls: how often a worker was found stuck.
    reloads: how a reload ended -> how many did.
    """

    status: ServiceStatus
    workers: tuple[WorkerCounts, ...]
    listeners: tuple[ListenerCounts, ...]
    hand_over: WaitCounts
    ends: dict[str, int]
    stalls: int
    reloads: dict[str, int]


class ObserverJob(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that an observer gets on its command line.

    line: the descriptor on which it asks the primary.
    listeners: the descriptors of the listeners on which it accepts.
    tally: the descriptor of the workers' own metrics; -1 if there is none.
    min_ready: how many workers must be ready.
    """

    line: int = -1
    listeners: tuple[int, ...] = ()
    tally: int = -1
    min_ready: int = 1
    log_level: str = "info"
    log_file: str | None = None
    log_format: str = "text"
