"""Facts about a cluster, in the past tense.

One frozen class per fact. Invariant: an event never changes and has no return value; what decides is a policy
object, not an event handler. `seq` counts up from 1 without a gap within one process's view of one cluster;
`at` is `time.time()`, in seconds.

Order, per worker: `Forked`, `Online`, any `Listening` and `Ready`, exactly one `Disconnected`, exactly one
`Exited`; every `Message` comes before `Disconnected`. (Node leaves the order of the last two open.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import signal
    import socket

    from everycore.errors import ReloadFailed
    from everycore.model import Address, ExitStatus
    from everycore.primary.worker import Worker
    from everycore.settings import Settings
    from everycore.system.descriptors import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have."""

    seq: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp(Event):
    """`setup_primary` was called. `settings` are those for later forks."""

    worker: None = None
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadBegan(Event):
    """A pool begins to replace its workers: those that it starts from here on have this `generation`."""

    worker: None = None
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadEnded(Event):
    """All workers are new and ready; or `error` says why not, and the others go on as they are."""

    worker: None = None
    generation: int
    error: ReloadFailed | None


# Below, who adds no field is a plain subclass: making a dataclass costs a third of a millisecond at import.


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEvent(Event):
    """An event about one worker: the `Worker`, or, inside the worker itself, its `WorkerContext`."""

    worker: Worker


class Forked(WorkerEvent):
    """The worker was spawned (or its spawn failed, and `Exited` with an error follows)."""

    __slots__ = ()


class Online(WorkerEvent):
    """The worker runs and has joined its channel; its program may not have begun."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(WorkerEvent):
    """The worker holds a listener.

    `address` is the real one, as `getsockname()` gives it: the port that port 0 became; for a unix socket the
    path asked for, made absolute. `fd` is the primary's descriptor for `listen(fd=...)`, else None.
    """

    address: Address
    family: socket.AddressFamily
    kind: socket.SocketKind
    fd: int | None = None


class Ready(WorkerEvent):
    """The worker takes connections: with its first `Listening`, or by `ready()` after `hold_ready()`."""

    __slots__ = ()


class Disconnected(WorkerEvent):
    """The worker's channel closed; no message of it follows."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited(WorkerEvent):
    """The worker's process is gone and reaped. `voluntary`: it was asked to leave, or asked itself."""

    status: ExitStatus
    voluntary: bool

    @property
    def code(self) -> int | None:
        """The exit code, None if a signal ended it or it never started."""
        return self.status.code

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended it, else None."""
        return self.status.signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(WorkerEvent):
    """A message of the other side: not a life-cycle event, so it comes only to `messages()` and `on`.

    `handle` is a `socket.socket`, a `Descriptor`, or None; whoever takes the message owns it.
    """

    message: Any
    handle: socket.socket | Descriptor | None = None


# The `__init__` of a frozen dataclass goes by `object.__setattr__`, which looks every name up: two thirds of
# its cost, for the one class of which there may be 100 000 a second.
_new = Message.__new__
_set_seq, _set_at, _set_worker, _set_message, _set_handle = (
    getattr(Message, name).__set__ for name in ("seq", "at", "worker", "message", "handle")
)


def make_message(
    seq: int, at: float, worker: Any, message: Any, handle: socket.socket | Descriptor | None
) -> Message:
    """`Message(seq=seq, at=at, ...)` in a third of the time. Hot."""
    made = _new(Message)
    _set_seq(made, seq)
    _set_at(made, at)
    _set_worker(made, worker)
    _set_message(made, message)
    _set_handle(made, handle)
    return made
