"""The current process as a worker: joined to its cluster once, at import.

The process joins if a cluster started it, and leaves in a forked child. Invariant: a process is at most one
worker, and a fork of a worker is not a worker.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from everycore import role
from everycore.errors import RoleError
from everycore.held_signals import held

if TYPE_CHECKING:
    from everycore.ticket import Ticket
    from everycore.worker.context import WorkerContext
    from everycore.worker.session import Session

_session: Session | None = None


def join() -> None:
    """Join the cluster that started this process, if one did."""
    global _session
    if role.ticket is None:
        return
    # Hold the signals until there are handlers. Ctrl-C reaches the whole process group, and a worker that is
    # asked to leave in its first moments has to leave properly.
    with held(signal.SIGINT, signal.SIGTERM):
        from everycore.worker.boot import join
        from everycore.worker.context import WorkerContext
        from everycore.worker.session import Session

        _session = Session(join(role.ticket), WorkerContext)
    if role.ticket.tally is not None:
        _leave_metrics(role.ticket)


def _leave_metrics(ticket: Ticket) -> None:
    from everycore.worker.intercept.for_prometheus import leave_metrics  # imported only if they are wanted

    assert ticket.tally is not None
    with contextlib.suppress(OSError, ValueError):  # out of memory: the worker goes on without metrics
        leave_metrics(ticket.tally[0], ticket.tally_slot)


def be_mold() -> None:
    """Let this process be a mold (`everycore.mold`), which is neither primary nor worker."""
    role.be(None, is_primary=False)


def join_as(ticket: Ticket) -> None:
    """Join the cluster as the worker that `ticket` names, in a process that a mold has made."""
    from everycore import forks

    forks.has_forked()
    role.be(ticket, is_primary=False)
    join()


def leave_after_fork() -> None:
    """Close what belongs to the parent, in a forked child, which is not a worker."""
    global _session
    role.forked()
    session, _session = _session, None
    if session is not None:
        session.abandon()


def session() -> Session | None:
    """The session of this process as a worker, or None if it is not one."""
    return _session


def is_leaving() -> bool:
    """Whether this process is a worker that has begun to leave."""
    return _session is not None and _session.departure.has_begun


def context() -> WorkerContext | None:
    """The program's view of this process as a worker, or None if it is not one."""
    return None if _session is None else _session.face


def current_worker() -> WorkerContext:
    """This process as a worker. Raises RoleError if it is not one."""
    if (worker := context()) is None:
        raise RoleError("current_worker() belongs to a worker; this process is not one")
    return worker
