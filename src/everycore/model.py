"""The plain values that all rooms speak of.

Small frozen types with no behaviour beyond reading well. Invariant: no I/O, nothing mutable. Imports nothing
of everycore.
"""

from __future__ import annotations

import enum
import signal
from typing import Any, Literal

import msgspec

#: What `socket.getsockname()` returns: a tuple for IP, str or bytes for a unix socket.
Address = Any


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What all events have."""

    seq: int
    at: float


class State(enum.StrEnum):
    """Where a worker is in its life, in this order; no state is ever entered twice."""

    NONE = "none"
    ONLINE = "online"
    LISTENING = "listening"
    DRAINING = "draining"
    DISCONNECTED = "disconnected"
    DEAD = "dead"


class ExitStatus(msgspec.Struct, frozen=True):
    """How a process ended: exactly one field is set.

    Source: waitid(2); `error` is for a process that could not be started at all, or, as a ChildProcessError,
    for one that somebody else has reaped (`os.wait()`, or SIGCHLD ignored): nobody knows how it ended.
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
            return "ended, nobody knows how: another part of this program has reaped it, or ignores SIGCHLD"
        return f"not started: {self.error}"


class WorkerIdentity(msgspec.Struct, frozen=True):
    """Which worker it is; `row` is its row of the board, `tally` its slot of the tally; 0 if it has none."""

    id: int
    slot: int
    generation: int
    row: int = 0
    tally: int = 0


class WorkerSnapshot(msgspec.Struct, frozen=True):
    """One worker at one moment. Counts are connections of all its listeners; `open`: those it has now.

    Under `shared`, `handed_over` is what it accepted. A plain `accept()` is not counted in `open`.
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
    """One listener at one moment. `queued`: connections the primary holds and has not handed over."""

    address: Address
    family: int
    kind: int
    policy: str
    workers: tuple[int, ...]
    accepted: int
    queued: int


class ReloadSnapshot(msgspec.Struct, frozen=True):
    """A pool's reload: the one under way, or the last one. `reason`: why it failed."""

    generation: int
    state: Literal["running", "done", "failed"]
    reason: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """The whole cluster at one moment.

    reload: None if there was none, or there is no `Pool`.
    is_stopping: it was told to stop. With a stop delay, newcomers are still served.
    failed_slots: those of a `Pool(give_up=)` of which too many workers have ended too soon.
    """

    workers: tuple[WorkerSnapshot, ...]
    listeners: tuple[ListenerSnapshot, ...]
    reload: ReloadSnapshot | None = None
    is_stopping: bool = False
    failed_slots: tuple[int, ...] = ()
