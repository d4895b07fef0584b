"""The state of a service at this moment, collected for the clients of its control socket.

Invariant: this asks no worker, so a blocked worker delays no answer. What a worker says of itself is on the
board.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from everycore.core.control import (
    ListenerStatus,
    MoldStatus,
    ReloadStatus,
    ServiceName,
    ServiceStatus,
    SlotStatus,
    WorkerStatus,
)
from everycore.core.history import History, SlotHistory
from everycore.core.lanes import Pause
from everycore.errors import in_a_line
from everycore.model import Address, ListenerSnapshot, WorkerSnapshot
from everycore.primary.cluster import Cluster
from everycore.primary.keeper import Keeper
from everycore.system.addresses import as_url
from everycore.system.backlogs import waiting_at
from everycore.system.resident import resident_bytes

if TYPE_CHECKING:
    from everycore.primary.listeners.listener import Listener
    from everycore.primary.stallwatch import StallWatch


def survey(
    name: ServiceName,
    cluster: Cluster,
    keeper: Keeper,
    history: History,
    started_at: float,
    uptime: float,
    now: float,
) -> ServiceStatus:
    """The status. uptime: seconds; now: by the clock of `history`."""
    snapshot = keeper.complete(cluster.snapshot())
    reload = snapshot.reload
    kept = sorted(
        (worker for worker in snapshot.workers if keeper.owns(worker.id)),
        key=lambda worker: (worker.slot, worker.id),
    )
    total = sum(worker.handed_over for worker in kept)
    listeners = tuple(cluster._runtime.switchboard._book)
    full = _full(listeners)
    return ServiceStatus(
        name=name.name,
        kind=name.kind,
        pid=name.pid,
        version=name.version,
        state=_state(keeper, history, is_stopping=snapshot.is_stopping),
        started_at=started_at,
        uptime=uptime,
        size=keeper.size,
        generation=0 if reload is None else reload.generation,
        reload=None
        if reload is None
        else ReloadStatus(generation=reload.generation, state=reload.state, reason=reload.reason),
        workers=tuple(
            _worker(
                worker,
                history.age(worker.id, now),
                total,
                keeper._stalls,
                is_full=worker.id in full,
            )
            for worker in kept
        ),
        slots=tuple(_slots(kept, keeper.size, history, snapshot.failed_slots)),
        listeners=_listeners(snapshot.listeners, listeners),
        molds=tuple(
            MoldStatus(pid=pid, state=state, workers=made, rss=resident_bytes(pid))
            for pid, state, made in cluster._runtime.molds.states()
        ),
    )


def _state(
    keeper: Keeper, history: History, *, is_stopping: bool
) -> Literal["starting", "running", "stopping"]:
    if is_stopping or keeper.size == 0:
        return "stopping"
    return "running" if history.was_ready else "starting"


def _listeners(
    snapshots: Iterable[ListenerSnapshot], listeners: tuple[Listener, ...]
) -> tuple[ListenerStatus, ...]:
    waiting = {
        shown_address(one.socket.real): waiting_at(one.socket.sock)
        for one in listeners
        if one.socket.is_listening
    }
    return tuple(
        ListenerStatus(
            address=shown_address(listener.address),
            policy=listener.policy,
            accepted=listener.accepted,
            queued=listener.queued,
            waiting=waiting.get(shown_address(listener.address)),
        )
        for listener in snapshots
    )


def _full(listeners: tuple[Listener, ...]) -> frozenset[int]:
    """The workers that take nothing of any listener, for they have said that they are full."""
    lanes = [
        (worker, Pause.FULL in lane.pauses)
        for one in listeners
        if (dispatcher := one.distribution.dispatcher) is not None
        for worker, lane in dispatcher.lanes.lanes.items()
    ]
    return frozenset(worker for worker, _ in lanes) - {worker for worker, is_full in lanes if not is_full}


def _worker(
    worker: WorkerSnapshot, age: float, total: int, stalls: StallWatch, *, is_full: bool
) -> WorkerStatus:
    return WorkerStatus(
        id=worker.id,
        slot=worker.slot,
        generation=worker.generation,
        pid=worker.pid,
        state=worker.state.value,
        is_ready=worker.is_ready,
        age=age,
        open=worker.open,
        handed_over=worker.handed_over,
        outstanding=worker.outstanding,
        share=worker.handed_over / total if total else 0.0,
        busy=stalls.busy(worker.id),
        rss=None if worker.pid is None else resident_bytes(worker.pid),
        stuck=stalls.stuck_for(worker.id),
        is_full=is_full,
    )


def _slots(
    kept: list[WorkerSnapshot], size: int, history: History, failed: tuple[int, ...]
) -> list[SlotStatus]:
    ids: dict[int, list[int]] = {slot: [] for slot in range(size)}
    for worker in kept:
        ids.setdefault(worker.slot, []).append(worker.id)
    found = []
    for slot in sorted(ids):
        past = history.slots.get(slot, SlotHistory())
        found.append(
            SlotStatus(
                slot=slot,
                workers=tuple(ids[slot]),
                is_failed=slot in failed,
                restarts=past.restarts,
                last_end=past.last_end,
                ended_at=past.ended_at,
            )
        )
    return found


def shown_address(address: Address) -> str:
    """An address as people write it; an abstract name begins with @."""
    if isinstance(address, tuple | list):
        return in_a_line(as_url(address, "tcp").removeprefix("tcp://"))
    return in_a_line(f"unix:{os.fsdecode(address)}".replace("\0", "@"))
