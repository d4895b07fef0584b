"""The plain values that every package uses.

These are small frozen types without behaviour, apart from a readable text. Invariant: no I/O, nothing
mutable.
"""

from __future__ import annotations

import enum
import signal
from typing import Any, Literal

import msgspec

#: The result of `socket.getsockname()`: a tuple for IP, str or bytes for a unix socket.
Address = Any


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The base class of all events, with their common fields."""

    seq: int
    at: float


class State(enum.StrEnum):
    """Where a worker is in its life. The states come in this order, and none is entered twice."""

    NONE = "none"
    ONLINE = "online"
    LISTENING = "listening"
    DRAINING = "draining"
    DISCONNECTED = "disconnected"
    DEAD = "dead"


class ExitStatus(msgspec.Struct, frozen=True):
    """How a process ended. Exactly one field is set.

    Source: waitid(2). `error` is set for a process that could not be started at all. It is a
    ChildProcessError for a process that other code has reaped (`os.wait()`, or SIGCHLD ignored), so that its
    status is unknown.
    """

    code: int | None = None
    signal: signal.Signals | None = None
    error: OSError | None = None

    def __post_init__(self) -> None:
        if sum(field is not None for field in (self.code, self.signal, self.error)) != 1:
            msg = f"an exit status has exactly one of code, signal and error: {self!r}"
            raise ValueError(msg)

    def __str__(self) -> str:
        if self.code is not None:
            return f"exit status {self.code}"
        if self.signal is not None:
            return f"killed by {self.signal.name}"
        if isinstance(self.error, ChildProcessError):
            return "ended, status unknown: another part of this program has reaped it, or ignores SIGCHLD"
        return f"not started: {self.error}"


class WorkerIdentity(msgspec.Struct, frozen=True):
    """The identity of a worker. `row` is its row of the board, and `tally` its slot of the tally, or 0."""

    id: int
    slot: int
    generation: int
    row: int = 0
    tally: int = 0


class WorkerSnapshot(msgspec.Struct, frozen=True):
    """One worker at one moment. The counts are connections, over all its listeners.

    `handed_over` are those that it was given; under `shared`, those that it accepted. `outstanding` are those
    that it has not acknowledged. `open` are those that it has now, without those that a plain `accept()`
    returned.
    """

    id: int
    slot: int
    generation: int
    pid: int | None
    state: State
    is_ready: bool
    handed_over: int
    outstanding: int
    open: int


class ListenerSnapshot(msgspec.Struct, frozen=True):
    """One listener at one moment.

    `workers` are the ids of those that hold it. `accepted` is how many connections the primary accepted, 0
    under `shared`; `queued` is how many of these it has not handed over.
    """

    address: Address
    family: int
    kind: int
    policy: str
    workers: tuple[int, ...]
    accepted: int
    queued: int


class ReloadSnapshot(msgspec.Struct, frozen=True):
    """A pool's reload, the current or the last one. `reason`: why it failed."""

    generation: int
    state: Literal["running", "done", "failed"]
    reason: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """The whole cluster at one moment.

    reload: None if there was no reload, or if there is no `Pool`.
    is_stopping: whether it was told to stop. During a stop delay, new connections are still served.
    failed_slots: the slots of a `Pool(give_up=)` in which too many workers have ended too soon.
    """

    workers: tuple[WorkerSnapshot, ...]
    listeners: tuple[ListenerSnapshot, ...]
    reload: ReloadSnapshot | None = None
    is_stopping: bool = False
    failed_slots: tuple[int, ...] = ()
