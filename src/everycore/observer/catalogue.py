"""Every metric of everycore: its name, kind, labels and meaning.

`families` fills them in, and docs/reference/metrics.md is generated from here (`python
docs/make_metrics.py`). Invariant: a name in this catalogue is never removed. The number of values of a label
is bounded by the slots, the living workers, the listeners, or a short list of words.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Kind = Literal["counter", "gauge", "histogram", "info"]
PREFIX: Final = "everycore_"


class Described(msgspec.Struct, frozen=True):
    """A metric. The names of its samples begin with `everycore_`; those of a counter end in `_total`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_WORKER: Final = ("worker", "slot", "generation")

CATALOGUE: Final = {
    one.name: one
    for one in (
        Described("build", "info", "The versions of everycore and of Python.", ("version", "python")),
        Described("service", "info", "The service: its name and its kind, serve or run.", ("name", "kind")),
        Described("start_time_seconds", "gauge", "When the service was started, since the epoch."),
        Described("stopping", "gauge", "1 from the moment when a stop begins."),
        Described("generation", "gauge", "The generation of the last reload; 0 before the first one."),
        Described("reloads", "counter", "Reloads that have ended, by result: done or failed.", ("result",)),
        Described("workers_wanted", "gauge", "How many workers there should be."),
        Described("workers", "gauge", "Workers by state: starting, ready, draining or ending.", ("state",)),
        Described("slots_failed", "gauge", "Slots whose workers end too soon; they are retried rarely."),
        Described(
            "worker_ends",
            "counter",
            "Workers that have ended, by reason: asked (reload, scale, drain, stop), recycled (at a limit),"
            " stalled (no progress, aborted), exit status N, killed by SIGNAL, not started.",
            ("reason",),
        ),
        Described(
            "worker_restarts", "counter", "Workers of a slot that ended without being asked to.", ("slot",)
        ),
        Described(
            "worker_stalls",
            "counter",
            "How often a worker made no progress: counted when it is told to print its stacks, and when it is"
            " aborted.",
        ),
        Described(
            "listener_connections",
            "counter",
            "Connections of a listener, by outcome: accepted by the primary; refused, because no worker could"
            " take them; lost, because their worker ended before its program had them. Under the policy"
            " shared, the workers accept, and none is counted here.",
            ("listener", "outcome"),
        ),
        Described(
            "listener_queued",
            "gauge",
            "Connections that the primary holds until a worker is free.",
            ("listener",),
        ),
        Described(
            "listener_backlog",
            "gauge",
            "Connections that wait in the kernel to be accepted. Unknown for unix sockets.",
            ("listener",),
        ),
        Described(
            "hand_over_wait_seconds",
            "histogram",
            "Time from the hand-over of a connection until the worker reports that its program has it. None"
            " under the policy shared, which has no hand-over; from the worker's last message under sticky.",
        ),
        Described(
            "worker_connections",
            "counter",
            "Connections of a worker, by outcome: handed_over (under shared: accepted by the worker), and, of"
            " these, given_back to go to another worker.",
            (*_WORKER, "outcome"),
        ),
        Described("worker_connections_open", "gauge", "Open connections of a worker.", _WORKER),
        Described(
            "worker_connections_outstanding",
            "gauge",
            "Connections handed over to a worker that its program does not have yet.",
            _WORKER,
        ),
        Described("worker_requests", "counter", "Requests that the application was given (serve).", _WORKER),
        Described("worker_ready", "gauge", "1 while the worker is given connections.", _WORKER),
        Described(
            "worker_full",
            "gauge",
            "1 while the worker takes no more connections: its server is at its limit, or it is short of"
            " descriptors. Unknown under the policy shared.",
            _WORKER,
        ),
        Described(
            "worker_stuck_seconds",
            "gauge",
            "How long the worker has made no progress, once its stacks were asked for; 0: it is not stuck.",
            _WORKER,
        ),
        Described("worker_age_seconds", "gauge", "The age of the worker.", _WORKER),
        Described(
            "worker_loop_busy_seconds",
            "counter",
            "Time for which the event loop of the worker was busy; its rate is the busy share. Only if a loop"
            " of everycore's reads the channel.",
            _WORKER,
        ),
        Described(
            "worker_loop_late_seconds",
            "counter",
            "Sum of the delays of a timer that the loop sets at least once a second.",
            _WORKER,
        ),
        Described(
            "worker_loop_lag_seconds",
            "gauge",
            "The delay of that timer now; large if the loop is blocked.",
            _WORKER,
        ),
        Described("worker_cpu_seconds", "counter", "Processor time of the worker.", _WORKER),
        Described(
            "worker_resident_memory_bytes",
            "gauge",
            "Memory of the worker, including shared pages (RSS).",
            _WORKER,
        ),
        Described(
            "worker_proportional_memory_bytes",
            "gauge",
            "The same, with each shared page divided among its processes (PSS); measured every 10 s. Missing"
            " if the observer may not read it.",
            _WORKER,
        ),
        Described("primary_cpu_seconds", "counter", "Processor time of the primary."),
        Described("primary_resident_memory_bytes", "gauge", "Memory of the primary (RSS)."),
        Described("observer_cpu_seconds", "counter", "Processor time of the observer."),
        Described("observer_resident_memory_bytes", "gauge", "Memory of the observer (RSS)."),
    )
}
