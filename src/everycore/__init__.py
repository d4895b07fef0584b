"""everycore: Node.js' `cluster` for Python, and further.

A primary process owns the listening sockets; worker processes run the program; every connection goes to a
worker that is free for it. Start with the README, then `docs/`.
"""

from __future__ import annotations

import os as _os
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from everycore import place as _place
from everycore import role as _role
from everycore.entry import new_event_loop, ready, run
from everycore.errors import (
    BootError,
    ChannelClosed,
    ChannelError,
    ChannelFull,
    ClusterClosed,
    ConfigurationError,
    EverycoreError,
    ProtocolError,
    ReloadFailed,
    RequestFailed,
    RequestTimeout,
    RoleError,
    UnsupportedPlatform,
)
from everycore.events import (
    Disconnected,
    Event,
    Exited,
    Forked,
    Listening,
    Message,
    Online,
    Ready,
    ReloadBegan,
    ReloadEnded,
    SetUp,
    WorkerEvent,
)
from everycore.listening import listen
from everycore.model import (
    ExitStatus,
    ListenerSnapshot,
    ReloadSnapshot,
    Snapshot,
    State,
    WorkerSnapshot,
)
from everycore.place import current_worker
from everycore.role import is_primary, is_worker
from everycore.settings import Settings

if TYPE_CHECKING:
    from everycore.aio.emitter import EventStream
    from everycore.aio.mailbox import MessageStream
    from everycore.aio.requests import Handler
    from everycore.aio.subscriptions import Subscription
    from everycore.pool import Pool
    from everycore.primary.cluster import Cluster
    from everycore.primary.worker import Worker
    from everycore.system.descriptors import Descriptor
    from everycore.system.machine import cpu_count
    from everycore.worker.connections.limits import limit_connections
    from everycore.worker.context import WorkerContext
    from everycore.worker.listening.clustersocket import ClusterSocket

__all__ = [
    "BootError",
    "ChannelClosed",
    "ChannelError",
    "ChannelFull",
    "Cluster",
    "ClusterClosed",
    "ClusterSocket",
    "ConfigurationError",
    "Descriptor",
    "Disconnected",
    "Event",
    "EventStream",
    "EverycoreError",
    "ExitStatus",
    "Exited",
    "Forked",
    "Handler",
    "ListenerSnapshot",
    "Listening",
    "Message",
    "MessageStream",
    "Online",
    "Pool",
    "ProtocolError",
    "Ready",
    "ReloadBegan",
    "ReloadEnded",
    "ReloadFailed",
    "ReloadSnapshot",
    "RequestFailed",
    "RequestTimeout",
    "RoleError",
    "SetUp",
    "Settings",
    "Snapshot",
    "State",
    "Subscription",
    "UnsupportedPlatform",
    "Worker",
    "WorkerContext",
    "WorkerEvent",
    "WorkerSnapshot",
    "cpu_count",
    "current_worker",
    "is_primary",
    "is_worker",
    "limit_connections",
    "listen",
    "new_event_loop",
    "ready",
    "run",
]

#: Imported at first use: a worker never needs the primary's side, nor a primary a worker's.
_LAZY = {
    "Cluster": "everycore.primary.cluster",
    "ClusterSocket": "everycore.worker.listening.clustersocket",
    "Descriptor": "everycore.system.descriptors",
    "EventStream": "everycore.aio.emitter",
    "Handler": "everycore.aio.requests",
    "MessageStream": "everycore.aio.mailbox",
    "Pool": "everycore.pool",
    "Subscription": "everycore.aio.subscriptions",
    "Worker": "everycore.primary.worker",
    "WorkerContext": "everycore.worker.context",
    "limit_connections": "everycore.worker.connections.limits",
    "cpu_count": "everycore.system.machine",
}


if not TYPE_CHECKING:  # to a type checker, a module with `__getattr__` has every name

    def __getattr__(name: str) -> object:
        module = _LAZY.get(name)
        if module is None:
            raise AttributeError(f"module 'everycore' has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(module), name)
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))


_place.take()


def _forked() -> None:
    """A forked child is no worker, and no primary of a `Cluster` that its parent has opened."""
    global is_primary, is_worker
    _place.give_up()
    is_primary, is_worker = _role.is_primary, _role.is_worker


_os.register_at_fork(after_in_child=_forked)
