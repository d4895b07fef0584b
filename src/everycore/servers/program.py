"""The program that a worker of `everycore serve` runs: `python -m everycore.servers JOB`.

Load, open, start, serve, stop; report a failure to start to the primary. Without a primary (on a system that
has no clusters, or started by hand) it serves in this one process and prints such a report itself. Invariant:
the worker is ready exactly while it serves.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from everycore import current
from everycore.entry import run
from everycore.errors import ChannelClosed
from everycore.ops import logs, outlets
from everycore.ops.access_log import access_handler
from everycore.ops.job import SECRETS, STATUS_STOPPED, BootReport, Job, read_job, with_secrets
from everycore.servers import engine_options
from everycore.servers.binding import open_sockets
from everycore.servers.binds import parse_binds
from everycore.servers.exits import LoneExit, WorkerExit
from everycore.servers.interfaces import as_asgi
from everycore.servers.lifespan import Lifespan
from everycore.servers.loading import CannotBootError, load_app, load_env_file
from everycore.system.addresses import as_url
from everycore.worker.context import WorkerContext

log = logging.getLogger("everycore.servers")


def main(argv: Sequence[str], told: Sequence[int]) -> int:
    """Serve the job that the command line holds; return the exit status.

    `told`: the signals that have come so far to a process without a primary.
    """
    job = with_secrets(read_job(argv[1]), os.environ.pop(SECRETS, None))
    me = current.context()
    with outlets.outlet_of(sys.stderr) as stream:
        failure = _configure_logs(job, me, stream)
        return run(_work(job, me, told, failure), loop=job.loop)


def _configure_logs(
    job: Job, me: WorkerContext | None, stream: io.TextIOBase | None
) -> CannotBootError | None:
    who = f"worker {me.id}" if me else "everycore"
    try:
        logs.configure(
            who,
            job.log_level,
            access_log=job.access_log,
            access=partial(access_handler, job.access_logfile, job.access_logformat),
            stream=stream,
        )
    except OSError as error:
        return CannotBootError(f"cannot write {job.access_logfile}: {(error.strerror or '').lower()}")
    return None


async def _work(
    job: Job, me: WorkerContext | None, told: Sequence[int], failure: CannotBootError | None
) -> int:
    # Signals are the loop's by now, or, without a primary, soon `_signalled`'s.
    if told or current.is_leaving():
        return STATUS_STOPPED
    try:
        if failure is not None:
            raise failure
        await _serve(job, me)
    except CannotBootError as error:
        await _report(error.report, me)
        return error.report.status
    return STATUS_STOPPED


async def _serve(job: Job, me: WorkerContext | None) -> None:
    if me is not None:
        me.hold_ready()
    with ExitStack() as opened:
        binds = parse_binds(job.binds)
        listening = open_sockets(binds, backlog=job.backlog, mode=job.socket_mode)
        sockets = [opened.enter_context(sock) for sock in listening]
        load_env_file(job.env_file)
        # In the running loop, so that an application that asks for it while it is imported finds it.
        loaded = load_app(job.app, job.app_dir, factory=job.factory)
        app = Lifespan(as_asgi(loaded, job.interface, job.threads), job.lifespan)
        from everycore.servers.engines import Engine  # late: without uvicorn it is a failure to boot

        engine = Engine(
            app,
            access_log=job.access_log,
            spread=job.spread,
            options=engine_options.arguments(job.engine),
            log_config=job.log_config,
        )
        session = current.session()
        way_out = LoneExit(job.grace) if session is None else WorkerExit(session)
        await app.startup()
        try:
            await engine.serve(sockets, me.ready if me else partial(_say_where, sockets, job), way_out)
        finally:
            # What is left of the grace, or a time of its own.
            left = way_out.deadline - asyncio.get_running_loop().time()
            await app.shutdown(max(left, job.shutdown_timeout))


async def _report(report: BootReport, me: WorkerContext | None) -> None:
    if me is None:
        print(f"everycore: {report.text}", file=sys.stderr)  # noqa: T201 - nobody else will say it
        return
    try:
        await me.send(report.message())
    except ChannelClosed:
        return  # nobody is left to be told


def _say_where(sockets: Sequence[socket.socket], job: Job) -> None:
    for sock in sockets:
        log.info("serving on %s, in this one process", as_url(sock.getsockname(), job.scheme))
