"""Facts about a cluster, in the past tense.

There is one frozen class for each fact. Invariant: an event never changes, and a handler's return value has
no effect: policy objects decide, not event handlers. `seq` counts up from 1 without a gap within one
process's view of one cluster; `at` is `time.time()`, in seconds.

The order, for each worker, is `Forked`, `Online`, any `Listening` and `Ready`, exactly one `Disconnected`,
exactly one `Exited`. Every `Message` comes before `Disconnected`. (Node leaves the order of the last two
open.)
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
    """`setup_primary` was called. `settings` apply to later forks."""

    worker: None = None
    settings: Settings


class ReloadBegan(Event, frozen=True, kw_only=True):
    """A pool has begun to replace its workers. Workers that it starts from now on have this `generation`."""

    worker: None = None
    generation: int


class ReloadEnded(Event, frozen=True, kw_only=True):
    """All workers are new and ready; or `error` says why not, and the old workers that are left go on."""

    worker: None = None
    generation: int
    error: ReloadFailed | None


class Forked(WorkerEvent, frozen=True, kw_only=True):
    """The worker was spawned (or its spawn failed, and `Exited` with an error follows)."""


class Online(WorkerEvent, frozen=True, kw_only=True):
    """The worker runs and has joined its channel. Its program may not have begun."""


class Listening(WorkerEvent, frozen=True, kw_only=True):
    """The worker holds a listener.

    `address` is the real one, as `getsockname()` returns it, with the actual port in place of port 0. For a
    unix socket it is the requested path, made absolute. `fd` is the primary's descriptor for
    `listen(fd=...)`, else None.
    """

    address: Address
    family: socket.AddressFamily
    kind: socket.SocketKind
    fd: int | None = None


class Ready(WorkerEvent, frozen=True, kw_only=True):
    """The worker takes connections: with its first `Listening`, or by `ready()` after `hold_ready()`."""


class Stalled(WorkerEvent, frozen=True, kw_only=True):
    """The worker lives, but has shown no progress for `seconds` (`Pool(stall_dump=, stall_kill=)`).

    The event comes when the worker is asked for the stacks of its threads, and again just before it is
    aborted.
    """

    seconds: float


class Recycled(WorkerEvent, frozen=True, kw_only=True):
    """The worker has reached a limit (`Pool(max_requests=)` and the like). A new worker replaces it.

    `reason` says which limit, and by how much.
    """

    reason: str


class Disconnected(WorkerEvent, frozen=True, kw_only=True):
    """The worker's channel closed. No message from it follows."""


class Exited(WorkerEvent, frozen=True, kw_only=True):
    """The worker's process is gone and reaped. `voluntary`: it was asked to leave, or asked itself."""

    status: ExitStatus
    voluntary: bool

    @property
    def code(self) -> int | None:
        """The exit code, or None if a signal ended the process or it never started."""
        return self.status.code

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended the process, else None."""
        return self.status.signal
