"""The program that a worker of `everycore serve` runs: `python -m everycore.servers JOB`.

It loads the application, opens the sockets, starts, serves and stops. It reports a failure to start to the
primary. Without a primary (on a system that has no clusters, or started by hand) it serves in this one
process and prints such a report itself. Invariant: the worker is ready exactly while it serves.
"""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import msgspec

from everycore import current, forks
from everycore.aio.task_stacks import print_tasks_when_asked
from everycore.entry import run
from everycore.errors import ChannelClosed
from everycore.ops import logs, outlets
from everycore.ops.access_log import tell_once
from everycore.ops.job import SECRETS, STATUS_STOPPED, BootReport, Job, read_job, with_secrets
from everycore.ops.log_formats import Speaker
from everycore.servers.assembly import Assembly, engine_type
from everycore.servers.binding import open_sockets
from everycore.servers.binds import parse_binds
from everycore.servers.exits import LoneExit, WorkerExit
from everycore.servers.loading import CannotBootError, load_app, load_env_file, user_traceback
from everycore.servers.log_config import read_log_config
from everycore.servers.tls_files import check_tls
from everycore.system import garbage
from everycore.system.addresses import as_url
from everycore.worker.context import WorkerContext
from everycore.worker.signals import print_stacks_when_asked

log = logging.getLogger("everycore.servers")


def main(argv: Sequence[str], told: Sequence[int]) -> int:
    """Serve the job that the command line holds. Returns the exit status.

    `told`: the signals that a process without a primary has received so far.
    """
    job = with_secrets(read_job(argv[1]), os.environ.pop(SECRETS, None) or _preloaded("secrets"))
    me = current.context()
    with outlets.outlet_of(sys.stderr) as stream, ExitStack() as opened:
        prepared = _prepared(job, me, told, stream, opened)
        return run(_work(job, me, told, prepared), loop=job.loop)


class _Prepared(msgspec.Struct, frozen=True):
    """What exists before the event loop runs. `assembly` is None if the application is loaded in the loop."""

    sockets: Sequence[socket.socket] = ()
    assembly: Assembly | None = None


def _prepared(
    job: Job, me: WorkerContext | None, told: Sequence[int], stream: io.TextIOBase | None, opened: ExitStack
) -> _Prepared | CannotBootError:
    """Open and load while no event loop runs: an application may run coroutines while it is imported.

    An application that is not known to be ASGI may do so (asyncio.run; a query of Django's). One that is
    declared as ASGI, or that asks for the running loop, is loaded in the loop.
    """
    try:
        _configure_logs(job, me, stream)
        if told or current.is_leaving():
            return _Prepared()
        if me is not None:
            me.hold_ready()
        listening = open_sockets(parse_binds(job.binds), backlog=job.backlog, mode=job.socket_mode)
        sockets = [opened.enter_context(sock) for sock in listening]
        load_env_file(job.env_file)
        read_log_config(job)
        engine_type(job)
        check_tls(job.engine)
        # The objects from before the application are never garbage. At its end Python would take them apart,
        # which costs a tenth of a second of processor time. The application's own are taken apart as usual.
        gc.freeze()
        garbage.collect_again()
        _run_hooks()
        assembly = _preloaded("assembly")
        if assembly is None:
            app = _preloaded("app")
            if app is None and not job.interface.startswith("asgi"):
                app = load(job)
            assembly = None if app is None else Assembly(job, app)
        return _Prepared(sockets, assembly)
    except CannotBootError as error:
        return error


def _configure_logs(job: Job, me: WorkerContext | None, stream: io.TextIOBase | None) -> None:
    """Configure the logs leniently: the primary has checked the files, and a replacement must serve."""
    speaker = Speaker("alone") if me is None else Speaker("worker", me.id, me.slot, me.generation)
    logs.configure(
        speaker,
        job.log_level,
        format=job.log_format,
        file=job.log_file,
        access_log=logs.AccessLog(is_on=job.access_log, file=job.access_logfile, format=job.access_logformat),
        stream=stream,
        is_lenient=True,
    )
    if me is not None:
        logs.follow_file(print_stacks_when_asked)
        logs.follow_file(print_tasks_when_asked)


def _preloaded(what: str) -> Any:
    """The value that a mold has prepared for its workers: the result of that function of `servers.preparing`.

    None in any other process.
    """
    preparing = sys.modules.get("everycore.servers.preparing")
    return None if preparing is None else getattr(preparing, what)()


def _run_hooks() -> None:
    """Call the functions that `everycore.after_fork` was given. Raises CannotBootError."""
    try:
        forks.run_hooks()
    except Exception as error:
        raise CannotBootError(user_traceback(error)) from None


def load(job: Job, *, is_asked_again: bool = False) -> Callable[..., Any] | None:
    """Load the application while no loop runs.

    Returns None if the application asked for the running loop, and has to be loaded in it. Python has removed
    the modules that failed from `sys.modules`, so they are executed again in the loop.

    is_asked_again: do so for an application that is declared as ASGI, too.
    """
    if job.interface == "auto":
        asyncio.set_event_loop(None)  # otherwise `get_event_loop()` would make a loop that never runs
    try:
        return load_app(job.app, job.app_dir, factory=job.factory)
    except CannotBootError as error:
        if (job.interface == "auto" or is_asked_again) and _asked_for_loop(error.__context__):
            return None
        raise


def _asked_for_loop(error: BaseException | None) -> bool:
    """Whether asyncio raised for lack of a loop: `get_running_loop`, `create_task`, `get_event_loop`."""
    return isinstance(error, RuntimeError) and bool(
        re.match(r"no running event loop|There is no current event loop", str(error))
    )


async def _work(
    job: Job, me: WorkerContext | None, told: Sequence[int], prepared: _Prepared | CannotBootError
) -> int:
    # By now the loop handles signals, or, without a primary, `LoneExit` soon will.
    if told or current.is_leaving():
        return STATUS_STOPPED
    try:
        if isinstance(prepared, CannotBootError):
            raise prepared
        await _serve(job, me, prepared)
    except CannotBootError as error:
        await _report(error.report, me)
        return error.report.status
    return STATUS_STOPPED


async def _serve(job: Job, me: WorkerContext | None, prepared: _Prepared) -> None:
    assembly = prepared.assembly or Assembly(job, load_app(job.app, job.app_dir, factory=job.factory))
    app, session = assembly.app, current.session()
    number = None if me is None else me.id
    assembly.join(session, number)
    if job.access_log:
        tell_once(number)
    way_out = LoneExit(job.grace) if session is None else WorkerExit(session)
    try:
        await app.startup()
        try:
            on_serving = me.ready if me else partial(_say_where, prepared.sockets, job)
            await assembly.engine.serve(prepared.sockets, on_serving, way_out)
        finally:
            # The application has the rest of the grace, or its own time-out if that is longer.
            left = way_out.deadline - asyncio.get_running_loop().time()
            await app.shutdown(max(left, job.shutdown_timeout))
    finally:
        app.forget()


async def _report(report: BootReport, me: WorkerContext | None) -> None:
    if me is None:
        print(f"everycore: {report.text}", file=sys.stderr)  # noqa: T201 - no primary reports it
        return
    try:
        await me.send(report.message())
    except ChannelClosed:
        return  # the primary is gone


def _say_where(sockets: Sequence[socket.socket], job: Job) -> None:
    for sock in sockets:
        log.info("serving on %s, in this one process", as_url(sock.getsockname(), job.scheme))
