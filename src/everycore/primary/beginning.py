"""How a worker's process begins: at once as a fresh interpreter, or a little later from its mold.

Invariant: a process that the kernel refuses leaves nothing behind, and the refusal becomes the worker's exit.
A setting that cannot work is raised if the request says so.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import Protocol

import msgspec

from everycore.errors import ConfigurationError, with_hint
from everycore.model import WorkerIdentity
from everycore.primary import spawner
from everycore.primary.outfit import Awaiting
from everycore.primary.process import WorkerProcess
from everycore.primary.runtime import Runtime


class Beginner(Awaiting, Protocol):
    """The driver of the worker that begins."""

    identity: WorkerIdentity
    user: int


class Begun(msgspec.Struct, frozen=True):
    """A worker that has begun. is_awaited: the driver is told later that its process exists, or never will.

    child: None, with the `error`, for a worker that was refused.
    """

    process: WorkerProcess
    child: spawner.Child | None = None
    error: OSError | None = None
    is_awaited: bool = False


def begin(runtime: Runtime, request: spawner.SpawnRequest, worker: Beginner) -> Begun:
    """Begin. Raises ConfigurationError for a setting that cannot work, if the request says so."""
    loop, system = runtime.loop, runtime.system
    leads = runtime.terms.new_group
    try:
        board = runtime.boards.fd_of(worker.user)
        birth = spawner.conceive(request, worker.identity, runtime.terms, board, system)
        if not runtime.molds.wants(request.settings):
            child = spawner.spawn(birth, system)
            return Begun(WorkerProcess(loop, system, child.process, leads_group=leads), child)
        from everycore.primary.mold import mold_command  # imported late: only for clusters with molds

        try:
            mold_command(birth.argv)
        except BaseException:
            birth.abandon()
            raise
    except (OSError, ConfigurationError) as problem:
        if request.raises and isinstance(problem, ConfigurationError):
            raise
        error = with_hint(problem) if isinstance(problem, OSError) else OSError(errno.EINVAL, str(problem))
        return Begun(WorkerProcess(loop, system), error=error)
    runtime.molds.want(worker, birth, request.settings)
    withdraw = partial(runtime.molds.withdraw, worker.id)
    process = WorkerProcess(loop, system, leads_group=leads, withdraw=withdraw)
    return Begun(process, spawner.Child(None, birth.channel, birth.link, birth.permits), is_awaited=True)
