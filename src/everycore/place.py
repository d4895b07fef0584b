"""This process's place in a cluster: taken once, at import.

Job: join the channel if a cluster started this process, and give up the place in a forked child.
Invariant: at most one place a process; a fork of a worker has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everycore import role
from everycore.errors import RoleError

if TYPE_CHECKING:
    from everycore.worker.context import WorkerContext

_context: WorkerContext | None = None


def take() -> None:
    """Join the cluster that started this process, if one did."""
    global _context
    if role.ticket is None:
        return
    from everycore.worker.boot import join
    from everycore.worker.context import WorkerContext

    _context = WorkerContext(join(role.ticket))


def give_up() -> None:
    """In a forked child, which is no worker: close what belongs to its parent."""
    global _context
    role.forked()
    context, _context = _context, None
    if context is not None:
        context.abandon()


def context() -> WorkerContext | None:
    """The worker's view of itself; None if this process is no worker."""
    return _context


def current_worker() -> WorkerContext:
    """This process as a worker. Raises RoleError where it is none."""
    if _context is None:
        raise RoleError("current_worker() belongs to a worker; this process is not one")
    return _context
