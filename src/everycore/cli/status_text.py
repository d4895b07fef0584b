"""Services, events and the results of orders, as text for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from everycore.core.control import ControlEvent, ServiceStatus, SlotStatus, WorkerStatus

_NOTHING: Final = "-"
HEADS: Final = (
    "slot", "worker", "gen", "pid", "state", "age", "open", "total", "share", "busy", "memory", "restarts",
    "last end",
)  # fmt: skip
#: The columns that are aligned to the right: they hold numbers.
_RIGHT: Final = frozenset({0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11})
#: The states of a ready worker that takes no connections: it makes no progress, or it has no room.
_STUCK: Final = "stuck"
_FULL: Final = "full"
_STATES: Final = {
    "none": "starting",
    "online": "starting",
    "listening": "starting",
    "draining": "draining",
    "disconnected": "ending",
    "dead": "dead",
}
_WORDS: Final = {
    "forked": "has been started",
    "online": "is running",
    "listening": "listens on",
    "ready": "is ready",
    "disconnected": "has closed its channel",
    "stalled": "has made no progress for",
    "recycled": "is replaced:",
    "exited": "ended:",
}


def status_lines(status: ServiceStatus, now: float) -> Iterator[str]:
    """The lines about a service, then the table of its workers. now: in seconds since the epoch."""
    yield from head_lines(status)
    yield ""
    yield from table(HEADS, [row for _, row in worker_rows(status, now)])


def head_lines(status: ServiceStatus) -> Iterator[str]:
    """The lines about the service as a whole."""
    ready = sum(worker.is_ready for worker in status.workers)
    states = [_state(worker) for worker in status.workers]
    lame = "".join(f", {count} {state}" for state in (_STUCK, _FULL) if (count := states.count(state)))
    what = f"{status.name} ({status.kind}, pid {status.pid}, everycore {status.version})"
    yield f"{what}: {status.state}, for {duration(status.uptime)}"
    yield f"workers: {ready} of {status.size} ready{lame}; generation {status.generation}; {_reload(status)}"
    for listener in status.listeners:
        counts = f"{listener.accepted} accepted, {listener.queued} queued"
        if listener.waiting is not None:
            counts += f", {listener.waiting} in the backlog"
        yield f"listens on {listener.address} ({listener.policy}): {counts}"
    for mold in status.molds:
        made = f"{mold.workers} worker{'' if mold.workers == 1 else 's'} made"
        yield f"mold {mold.pid}: {mold.state}, {made}, {_size(mold.rss)}"


def _reload(status: ServiceStatus) -> str:
    reload = status.reload
    if reload is None:
        return "no reload yet"
    if reload.state == "running":
        return "a reload is under way"
    reason = f": {_one_line(reload.reason)}" if reload.reason else ""
    return f"the last reload {'is done' if reload.state == 'done' else 'failed'}{reason}"


def worker_rows(status: ServiceStatus, now: float) -> Iterator[tuple[int | None, list[str]]]:
    """A row for each worker, with its id, and for each slot without one. now: see `status_lines`."""
    workers = {worker.id: worker for worker in status.workers}
    for slot in status.slots:
        past = [str(slot.restarts), _end(slot, now)]
        if not slot.workers:
            state = "failed" if slot.is_failed else "waiting"
            yield None, [str(slot.slot), _NOTHING, _NOTHING, _NOTHING, state, *[_NOTHING] * 6, *past]
        for number, worker in enumerate(slot.workers):
            yield worker, [*_worker(workers[worker]), *(past if number == 0 else ["", ""])]


def _worker(worker: WorkerStatus) -> list[str]:
    return [
        str(worker.slot),
        str(worker.id),
        str(worker.generation),
        _NOTHING if worker.pid is None else str(worker.pid),
        _state(worker),
        duration(worker.age),
        str(worker.open),
        str(worker.handed_over),
        f"{worker.share:.0%}",
        _NOTHING if worker.busy is None else f"{worker.busy:.0%}",
        _memory(worker),
    ]


def _state(worker: WorkerStatus) -> str:
    if not worker.is_ready:
        return _STATES.get(worker.state, worker.state)
    return _STUCK if worker.stuck is not None else _FULL if worker.is_full else "ready"


def _memory(worker: WorkerStatus) -> str:
    """The memory of a worker: its PSS (shared pages divided among their users) if known, else its RSS."""
    return _size(worker.rss if worker.pss is None else worker.pss)


def _size(size: int | None) -> str:
    return _NOTHING if size is None else f"{size / 2**20:.0f} MiB"


def _end(slot: SlotStatus, now: float) -> str:
    if slot.last_end is None or slot.ended_at is None:
        return _NOTHING
    return f"{_one_line(slot.last_end)}, {duration(max(now - slot.ended_at, 0.0))} ago"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table with two spaces between the columns."""
    widths = [max(len(row[at]) for row in (heads, *rows)) for at in range(len(heads))]
    for row in (heads, *rows):
        cells = [
            cell.rjust(width) if at in _RIGHT else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def duration(seconds: float) -> str:
    """A length of time, rounded down to one unit: `12 s`, `3 min`, `5 h`, `8 d`."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h" if whole < 2 * 86400 else f"{whole // 86400} d"


def event_text(event: ControlEvent) -> str:
    """An event in words, without its time."""
    text = "" if event.text is None else f" {_one_line(event.text)}"
    if event.event == "reload_began":
        return f"reload {event.generation}: begins"
    if event.event == "reload_ended":
        return f"reload {event.generation}: {f'failed:{text}' if text else 'all workers are new'}"
    if event.worker is None:
        return f"{event.event}{text}"
    who = f"worker {event.worker} (slot {event.slot}, pid {event.pid or _NOTHING})"
    asked = ", as asked" if event.voluntary else ""
    return f"{who} {_WORDS.get(event.event, event.event)}{text}{asked}"


def event_line(event: ControlEvent) -> str:
    """An event in words, after its date and time."""
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
    return f"{date} {event_text(event)}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
