"""Every metric of everycore: its name, its kind, its labels, and what it means.

`families` fills them, and docs/reference/metrics.md is drawn from here (`python docs/make_metrics.py`).
Invariant: a name that is here stays; no label has more values than there are slots, workers that live,
listeners, or words of a short list.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Kind = Literal["counter", "gauge", "histogram", "info"]
PREFIX: Final = "everycore_"


class Described(msgspec.Struct, frozen=True):
    """A metric. Its samples are called `everycore_` and the name; those of a counter end in `_total`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_WORKER: Final = ("worker", "slot", "generation")

CATALOGUE: Final = {
    one.name: one
    for one in (
        Described("build", "info", "The version of everycore, and of Python.", ("version", "python")),
        Described("service", "info", "The service: its name and its kind, serve or run.", ("name", "kind")),
        Described("start_time_seconds", "gauge", "When the service was started, since the epoch."),
        Described("stopping", "gauge", "1 from the first moment of a stop."),
        Described("generation", "gauge", "Of the last reload; 0 before the first."),
        Described(
            "reloads", "counter", "Reloads that have ended: all workers new (done), or not.", ("result",)
        ),
        Described("workers_wanted", "gauge", "How many workers there should be."),
        Described("workers", "gauge", "Workers by state: starting, ready, draining or ending.", ("state",)),
        Described("slots_failed", "gauge", "Slots whose workers end too soon, tried again seldom."),
        Described(
            "worker_ends",
            "counter",
            "Workers that have ended, by reason: asked (reload, scale, drain, stop), recycled (a limit was"
            " reached), stalled (no progress, aborted), exit status N, killed by SIGNAL, not started.",
            ("reason",),
        ),
        Described(
            "worker_restarts", "counter", "Workers of a slot that have ended without being asked.", ("slot",)
        ),
        Described(
            "worker_stalls",
            "counter",
            "How often a worker made no progress: counted when its stacks are asked for, and when it is"
            " aborted.",
        ),
        Described(
            "listener_connections",
            "counter",
            "Connections of a listener: accepted by the primary; refused, for no worker could have them;"
            " lost, for their worker ended before its program had them. Under the policy shared workers"
            " accept, and none is counted here.",
            ("listener", "outcome"),
        ),
        Described(
            "listener_queued", "gauge", "Connections that the primary holds for a worker.", ("listener",)
        ),
        Described(
            "listener_backlog",
            "gauge",
            "Connections that wait in the kernel to be accepted. Not told of unix sockets.",
            ("listener",),
        ),
        Described(
            "hand_over_wait_seconds",
            "histogram",
            "From the hand-over of a connection until the worker says that its program has it. Under the"
            " policy shared there is no hand-over; under sticky it counts from the worker's last word.",
        ),
        Described(
            "worker_connections",
            "counter",
            "Connections of a worker: handed_over (under shared: accepted by it), and, of these, given_back"
            " to go to another one.",
            (*_WORKER, "outcome"),
        ),
        Described("worker_connections_open", "gauge", "Connections that a worker has now.", _WORKER),
        Described(
            "worker_connections_outstanding",
            "gauge",
            "Connections handed to a worker that its program does not have yet.",
            _WORKER,
        ),
        Described("worker_requests", "counter", "Requests that the application was given (serve).", _WORKER),
        Described("worker_ready", "gauge", "1 while the worker is given connections.", _WORKER),
        Described(
            "worker_full",
            "gauge",
            "1 while the worker takes no more: its server is at its limit, or descriptors run short. Not"
            " known under the policy shared.",
            _WORKER,
        ),
        Described(
            "worker_stuck_seconds",
            "gauge",
            "For which the worker has shown no progress, once its stacks were asked for; 0: it is not stuck.",
            _WORKER,
        ),
        Described("worker_age_seconds", "gauge", "For how long the worker is there.", _WORKER),
        Described(
            "worker_loop_busy_seconds",
            "counter",
            "For which the event loop of the worker was busy: its rate is the busy share. Only where a loop"
            " of everycore's reads the channel.",
            _WORKER,
        ),
        Described(
            "worker_loop_late_seconds",
            "counter",
            "By which a timer of the loop, set once a second or more often, came late, added up.",
            _WORKER,
        ),
        Described(
            "worker_loop_lag_seconds", "gauge", "By which that timer is late now: a blocked loop.", _WORKER
        ),
        Described("worker_cpu_seconds", "counter", "Processor time of the worker.", _WORKER),
        Described(
            "worker_resident_memory_bytes", "gauge", "Memory of the worker, shared pages too (RSS).", _WORKER
        ),
        Described(
            "worker_proportional_memory_bytes",
            "gauge",
            "The same with shared pages divided by those who share them (PSS); looked at every 10 s. Not"
            " there where the observer may not look.",
            _WORKER,
        ),
        Described("primary_cpu_seconds", "counter", "Processor time of the primary."),
        Described("primary_resident_memory_bytes", "gauge", "Memory of the primary (RSS)."),
        Described("observer_cpu_seconds", "counter", "Processor time of the observer."),
        Described("observer_resident_memory_bytes", "gauge", "Memory of the observer (RSS)."),
    )
}
