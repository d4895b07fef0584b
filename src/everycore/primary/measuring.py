"""The counters of a service, collected for the observer.

No worker is asked, as in `primary.surveying`. Invariant: this only reads, in O(workers x listeners).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from everycore.core.measures import ListenerCounts, ServiceMetrics, WorkerCounts
from everycore.core.waits import WaitHistogram
from everycore.primary.driver import driver_of
from everycore.primary.surveying import shown_address
from everycore.system.backlogs import waiting_at

if TYPE_CHECKING:
    from everycore.core.control import ServiceStatus
    from everycore.core.history import History
    from everycore.primary.cluster import Cluster
    from everycore.primary.listeners.listener import Listener
    from everycore.worker_face import Worker


def measure(status: ServiceStatus, cluster: Cluster, history: History) -> ServiceMetrics:
    """The counters that go with the status."""
    runtime = cluster._runtime
    listeners = tuple(runtime.switchboard._book)
    known = {worker.id for worker in status.workers}
    now, beat = time.monotonic(), runtime.terms.beat
    return ServiceMetrics(
        status=status,
        workers=tuple(
            _worker(worker, listeners, now, beat) for worker in cluster.workers.values() if worker.id in known
        ),
        listeners=tuple(_listener(listener) for listener in listeners),
        hand_over=(runtime.switchboard.settings.waits or WaitHistogram()).now(),
        ends=dict(history.ends),
        stalls=history.stalls,
        reloads=dict(history.reloads),
    )


def _worker(worker: Worker, listeners: tuple[Listener, ...], now: float, beat: float) -> WorkerCounts:
    seat = driver_of(worker).seat
    dispatchers = [found for one in listeners if (found := one.distribution.dispatcher) is not None]
    lanes = [lane for one in dispatchers if (lane := one.lanes.lane_of(worker.id)) is not None]
    times = seat.loop_times
    return WorkerCounts(
        id=worker.id,
        given_back=sum(lane.returned for lane in lanes),
        requests=seat.requests,
        loop_busy=None if times is None else times.busy,
        loop_late=None if times is None else times.late,
        loop_lag=None if times is None else max(now - times.beat - beat, 0.0),
    )


def _listener(listener: Listener) -> ListenerCounts:
    dispatcher = listener.distribution.dispatcher
    return ListenerCounts(
        address=shown_address(listener.socket.real),
        accepted=listener.distribution.accepted,
        queued=listener.distribution.queued,
        waiting=waiting_at(listener.socket.sock) if listener.socket.is_listening else None,
        refused=0 if dispatcher is None else dispatcher.arrivals.refused,
        lost=0 if dispatcher is None else dispatcher.lost,
    )
