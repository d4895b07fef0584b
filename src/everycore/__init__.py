"""everycore: Node.js' `cluster` for Python, and more.

A primary process owns the listening sockets; worker processes run the program; every connection goes to a
worker that is free for it. Start with the README, then `docs/`.
"""

from __future__ import annotations

import os as _os
import signal as _signal
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from everycore import current as _current
from everycore import role as _role
from everycore.current import current_worker
from everycore.held_signals import held as _held
from everycore.role import is_primary, is_worker

if TYPE_CHECKING:
    from everycore.aio.emitter import EventStream
    from everycore.aio.requests import Handler
    from everycore.aio.subscriptions import Subscription
    from everycore.entry import new_event_loop, ready, run
    from everycore.errors import (
        BootError,
        ChannelClosed,
        ChannelError,
        ChannelFull,
        ClusterClosed,
        ConfigurationError,
        ControlError,
        EverycoreError,
        MoldFailed,
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
        Recycled,
        ReloadBegan,
        ReloadEnded,
        SetUp,
        Stalled,
        WorkerEvent,
    )
    from everycore.forks import after_fork
    from everycore.listening import listen
    from everycore.model import (
        ExitStatus,
        ListenerSnapshot,
        ReloadSnapshot,
        Snapshot,
        State,
        WorkerSnapshot,
    )
    from everycore.pool import Pool
    from everycore.primary.cluster import Cluster
    from everycore.settings import Settings
    from everycore.system.descriptors import Descriptor
    from everycore.system.machine import cpu_count
    from everycore.worker.connections.limits import limit_connections
    from everycore.worker.context import WorkerContext
    from everycore.worker.listening.clustersocket import ClusterSocket
    from everycore.worker_face import MessageStream, Worker

__all__ = [
    "BootError",
    "ChannelClosed",
    "ChannelError",
    "ChannelFull",
    "Cluster",
    "ClusterClosed",
    "ClusterSocket",
    "ConfigurationError",
    "ControlError",
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
    "MoldFailed",
    "Online",
    "Pool",
    "ProtocolError",
    "Ready",
    "Recycled",
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
    "Stalled",
    "State",
    "Subscription",
    "UnsupportedPlatform",
    "Worker",
    "WorkerContext",
    "WorkerEvent",
    "WorkerSnapshot",
    "after_fork",
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

#: The module of each name that is imported at its first use. A worker never needs the primary's side, nor a
#: primary a worker's, and a starting program or command has to be interruptible at once.
_HOMES = {
    "entry": "new_event_loop ready run",
    "errors": "BootError ChannelClosed ChannelError ChannelFull ClusterClosed ConfigurationError"
    " ControlError EverycoreError MoldFailed ProtocolError ReloadFailed RequestFailed RequestTimeout"
    " RoleError UnsupportedPlatform",
    "events": "Disconnected Event Exited Forked Listening Message Online Ready Recycled ReloadBegan"
    " ReloadEnded SetUp Stalled WorkerEvent",
    "forks": "after_fork",
    "listening": "listen",
    "model": "ExitStatus ListenerSnapshot ReloadSnapshot Snapshot State WorkerSnapshot",
    "settings": "Settings",
    "aio.emitter": "EventStream",
    "aio.requests": "Handler",
    "aio.subscriptions": "Subscription",
    "pool": "Pool",
    "primary.cluster": "Cluster",
    "system.descriptors": "Descriptor",
    "system.machine": "cpu_count",
    "worker.connections.limits": "limit_connections",
    "worker.context": "WorkerContext",
    "worker.listening.clustersocket": "ClusterSocket",
    "worker_face": "MessageStream Worker",
}
_LAZY = {name: f"everycore.{module}" for module, names in _HOMES.items() for name in names.split()}


if not TYPE_CHECKING:  # for a type checker, a module with `__getattr__` has every name

    def __getattr__(name: str) -> object:
        module = _LAZY.get(name)
        if module is None:
            raise AttributeError(f"module 'everycore' has no attribute {name!r}")
        # A KeyboardInterrupt in the middle would leave half a module behind, and makes msgspec crash.
        with _held(_signal.SIGINT):
            value = globals()[name] = getattr(_import_module(module), name)
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))


def _role_changed() -> None:
    global is_primary, is_worker
    is_primary, is_worker = _role.is_primary, _role.is_worker


_role.on_change = _role_changed
_current.join()


def _forked() -> None:
    """Let a forked child be neither a worker nor the primary of a `Cluster` that its parent has opened."""
    _current.leave_after_fork()
    _role_changed()


_os.register_at_fork(after_in_child=_forked)
