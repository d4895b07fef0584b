"""`everycore serve`: an ASGI or WSGI application on every core.

Read the options, check them all before anything starts, and hand over to `ops.service`. Invariant: no user
code runs in this process, and nothing is imported that a wrong option would make useless.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

import everycore.servers
from everycore.cli import activation, sources
from everycore.cli.activation import activated_descriptors
from everycore.cli.options import (
    CONTEXT,
    Values,
    grace_option,
    keep_nofile_option,
    log_level_option,
    loop_option,
    name_option,
    policy_option,
    stop_delay_option,
    surge_option,
    workers_option,
)
from everycore.errors import ConfigurationError
from everycore.ops import interpreter, logs
from everycore.ops.job import INTERFACES, Job, check_app
from everycore.role import working_directory
from everycore.servers.binds import parse_binds
from everycore.settings import Settings
from everycore.system.machine import Bound, is_linux
from everycore.system.processes import interpreter_flags

log = logging.getLogger("everycore.cli")

DEFAULT_BIND = "127.0.0.1:8000"
_IN_ARCHIVE: Final = "import runpy; runpy.run_module('everycore.servers', run_name='__main__')"

EPILOG = """
\b
Examples:
  everycore serve main:app
  everycore serve --workers 4 --bind 0.0.0.0:80 --bind unix:/run/shop.sock shop.web:app
  everycore serve --factory --app-dir src shop:create_app

\b
Signals:
  TERM                finish the requests at hand within the grace, and one more of each connected client
  INT (Ctrl-C)        the same, but close connections without a request at once; INT again ends at once
  HUP                 reload: replace all workers, each new one ready before the old one leaves
  TTIN, TTOU          one worker more, one fewer; not at a terminal, where these belong to the shell
  USR1                open log files anew, in all processes
  TSTP (Ctrl-Z), CONT stop for a while and go on, with all workers
  QUIT                end at once, and print the stacks of every worker

\b
Exit status:
  0  stopped as asked
  1  could not listen, failed, or was told to end at once
  2  wrong usage or configuration
  3  the application could not start; its traceback is printed once

Every option that takes a value, except --bind and --app-dir, can also be set by a variable of its name, such
as EVERYCORE_GRACE; the option wins. The number of workers is also read from WEB_CONCURRENCY.
Client addresses are taken from X-Forwarded-For only if the peer is listed in FORWARDED_ALLOW_IPS
(default: this machine).
"""


@click.command(
    short_help="Serve an ASGI or WSGI application.",
    epilog=EPILOG,
    context_settings=CONTEXT,
)
@click.argument("app", metavar="APP")
@workers_option
@click.option(
    "--bind",
    "binds",
    multiple=True,
    metavar="ADDRESS",
    help="HOST:PORT, [V6]:PORT, unix:PATH or fd://N; may be repeated. Port 0 is any free port."
    f"  [default: systemd's sockets (LISTEN_FDS), else {DEFAULT_BIND}]",
)
@policy_option
@grace_option
@stop_delay_option
@click.option(
    "--shutdown-timeout",
    metavar="SECONDS",
    help="Time for the application's own shutdown, at least, after the grace.  [default: 10]",
)
@click.option(
    "--spread",
    metavar="SECONDS",
    help="Over how long a stop spreads the ends of WebSockets and event streams.  [default: half the grace]",
)
@surge_option
@click.option("--boot-timeout", metavar="SECONDS", help="Time to become ready.  [default: 60]")
@click.option("--factory", is_flag=True, help="APP makes the application: call it without arguments.")
@click.option(
    "--interface", metavar="NAME", help=f"What APP speaks: {', '.join(INTERFACES)}.  [default: auto]"
)
@click.option(
    "--app-dir", metavar="FOLDER", default=".", help="Where to look for APP first.  [default: here]"
)
@loop_option("The event loop")
@log_level_option
@click.option("--access-log", is_flag=True, help="Log every request.")
@click.option("--show-counts", is_flag=True, help="Show which worker took how many connections.")
@keep_nofile_option
@name_option("APP")
def serve(**arguments: Any) -> int:
    """Serve the ASGI or WSGI application APP, named as MODULE:ATTRIBUTE, on every core."""
    options = read_options(arguments, os.environ)
    _require_engine()
    if not is_linux():
        click.echo(f"everycore: a cluster needs Linux; serving in one process on {sys.platform}", err=True)
        alone = [sys.executable, *interpreter_flags(), "-P", "-m", "everycore.servers", options.job.text()]
        os.execv(alone[0], alone)  # noqa: S606 - that process is this service from here on
    logs.configure("primary", options.job.log_level)
    log.info("starting %d workers (%s)", options.workers.count, options.workers.reason)
    return _run(options)


@dataclass(frozen=True, slots=True)
class Options:
    """All options, checked."""

    job: Job
    workers: Bound
    policy: str | None
    stop_delay: float
    boot_timeout: float
    surge: int
    name: str
    show_counts: bool
    keep_nofile: bool


def read_options(arguments: Mapping[str, Any], environ: Mapping[str, str]) -> Options:
    """From what click read and the environment. Raises ConfigurationError."""
    values = Values(arguments, environ)
    activated = [f"fd://{fd}" for fd in activated_descriptors(environ, os.getpid())]
    binds = parse_binds(arguments["binds"] or activated or (DEFAULT_BIND,))
    job = Job(
        app=check_app(arguments["app"]),
        binds=[str(bind) for bind in binds],
        app_dir=_check_folder("--app-dir", arguments["app_dir"]),
        factory=arguments["factory"],
        interface=values.get("--interface", sources.parse_choice(INTERFACES), "auto"),
        loop=values.loop(),
        grace=values.grace(),
        shutdown_timeout=values.get("--shutdown-timeout", sources.parse_seconds(0.0), 10.0),
        spread=values.get("--spread", sources.parse_seconds(0.0), None),
        log_level=values.log_level(),
        access_log=arguments["access_log"],
    )
    return Options(
        job=job,
        workers=values.workers(),
        policy=values.policy(),
        stop_delay=values.stop_delay(),
        boot_timeout=values.get("--boot-timeout", sources.parse_seconds(0.1), 60.0),
        surge=values.surge(),
        name=values.name(job.app),
        show_counts=arguments["show_counts"],
        keep_nofile=arguments["keep_nofile"],
    )


def _check_folder(option: str, folder: str) -> str:
    if not os.path.isdir(folder):
        raise ConfigurationError(option, sources.why_not_there("folder", folder))
    if os.path.isabs(folder):
        return folder
    # Not tidied: each worker looks where this leads when it starts.
    here = working_directory(os.environ)
    if here is None:
        raise ConfigurationError(option, "the folder that we are in is gone; name one from the root")
    return here if folder == "." else os.path.join(here, folder)


def _require_engine() -> None:
    if importlib.util.find_spec("uvicorn") is None:
        raise ConfigurationError("serve", "needs uvicorn: pip install 'everycore[standard]'")


def _run(options: Options) -> int:
    from everycore.ops.service import run_service  # late: asyncio is of no use to a wrong option
    from everycore.pool import Pool

    # -P: the folder we happen to be in must not shadow what we import ourselves; the application's own folder
    # comes first on `sys.path` once we have.
    command = interpreter.command(everycore.servers, _IN_ARCHIVE, [options.job.text()], flags=["-P"])
    pool = Pool(
        options.workers.count,
        settings=Settings(
            exec=command,
            env={**dict.fromkeys(activation.VARIABLES), **interpreter.environment()},
            stdio=("null", "inherit", "inherit"),
        ),
        policy=options.policy,
        grace=options.job.grace,
        shutdown_timeout=options.job.shutdown_timeout,
        boot_timeout=options.boot_timeout,
        surge=options.surge,
        signals=True,
        new_group=True,
        raise_nofile=not options.keep_nofile,
    )
    counts = sys.stdout if options.show_counts else None
    outcome = run_service(pool, options.name, counts, options.stop_delay)
    if outcome.text:
        click.echo(f"everycore: {outcome.text}", err=True)
    return outcome.status
