"""Facts about a cluster, in the past tense.

One frozen class per fact. Invariant: an event never changes and has no return value; what decides is a policy
object, not an event handler. `seq` counts up from 1 without a gap within one process's view of one cluster;
`at` is `time.time()`, in seconds.

Order, per worker: `Forked`, `Online`, any `Listening` and `Ready`, exactly one `Disconnected`, exactly one
`Exited`; every `Message` comes before `Disconnected`. (Node leaves the order of the last two open.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everycore.model import Event
from everycore.worker_face import Message, WorkerEvent

if TYPE_CHECKING:
    import signal
    import socket

    from everycore.errors import ReloadFailed
    from everycore.model import Address, ExitStatus
    from everycore.settings import Settings

__all__ = [
    "Disconnected",
    "Event",
    "Exited",
    "Forked",
    "Listening",
    "Message",
    "Online",
    "Ready",
    "Recycled",
    "ReloadBegan",
    "ReloadEnded",
    "SetUp",
    "Stalled",
    "WorkerEvent",
]


class SetUp(Event, frozen=True, kw_only=True):
    """`setup_primary` was called. `settings` are those for later forks."""

    worker: None = None
    settings: Settings


class ReloadBegan(Event, frozen=True, kw_only=True):
    """A pool begins to replace its workers: those that it starts from here on have this `generation`."""

    worker: None = None
    generation: int


class ReloadEnded(Event, frozen=True, kw_only=True):
    """All workers are new and ready; or `error` says why not, and the others go on as they are."""

    worker: None = None
    generation: int
    error: ReloadFailed | None


class Forked(WorkerEvent, frozen=True, kw_only=True):
    """The worker was spawned (or its spawn failed, and `Exited` with an error follows)."""


class Online(WorkerEvent, frozen=True, kw_only=True):
    """The worker runs and has joined its channel; its program may not have begun."""


class Listening(WorkerEvent, frozen=True, kw_only=True):
    """The worker holds a listener.

    `address` is the real one, as `getsockname()` gives it: the port that port 0 became; for a unix socket the
    path asked for, made absolute. `fd` is the primary's descriptor for `listen(fd=...)`, else None.
    """

    address: Address
    family: socket.AddressFamily
    kind: socket.SocketKind
    fd: int | None = None


class Ready(WorkerEvent, frozen=True, kw_only=True):
    """The worker takes connections: with its first `Listening`, or by `ready()` after `hold_ready()`."""


class Stalled(WorkerEvent, frozen=True, kw_only=True):
    """The worker lives, and has shown no progress for so many seconds (`Pool(stall_dump=, stall_kill=)`).

    Told when the stacks of its threads are asked for, and once more when it is about to be aborted.
    """

    seconds: float


class Recycled(WorkerEvent, frozen=True, kw_only=True):
    """The worker has reached a limit (`Pool(max_requests=)` and the like): a new one is started in its place.

    `reason` says which limit, and by how much.
    """

    reason: str


class Disconnected(WorkerEvent, frozen=True, kw_only=True):
    """The worker's channel closed; no message of it follows."""


class Exited(WorkerEvent, frozen=True, kw_only=True):
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
