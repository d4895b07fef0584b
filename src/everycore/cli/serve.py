"""`everycore serve`: an ASGI or WSGI application on every core.

Job: read the options, check them all before anything starts, and hand over to `ops.service`. Invariant: no
user code runs in this process, and nothing is imported that a wrong option would make useless.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import click

import everycore.servers
from everycore.errors import ConfigurationError
from everycore.ops import activation, interpreter, logs, sources
from everycore.ops.activation import activated_descriptors
from everycore.ops.binds import parse_binds
from everycore.ops.job import INTERFACES, Job, check_app
from everycore.settings import LOOPS, POLICIES, Settings
from everycore.system.machine import Bound, cpu_bound, is_linux, memory_limit, worker_bound
from everycore.system.processes import interpreter_flags

_logger = logging.getLogger("everycore")

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
  INT (Ctrl-C), TERM  finish the requests at hand within the grace, then end; the second one ends at once

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
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("app", metavar="APP")
@click.option(
    "--workers", metavar="N|auto", help="How many; auto: one a CPU, as memory allows.  [default: auto]"
)
@click.option(
    "--bind",
    "binds",
    multiple=True,
    metavar="ADDRESS",
    help="HOST:PORT, [V6]:PORT, unix:PATH or fd://N; may be repeated. Port 0 is any free port."
    f"  [default: systemd's sockets (LISTEN_FDS), else {DEFAULT_BIND}]",
)
@click.option(
    "--policy",
    metavar="NAME",
    help=f"Who gets the next connection: {', '.join(POLICIES)}.  [default: {POLICIES[0]}]",
)
@click.option(
    "--grace", metavar="SECONDS", help="Time to finish when stopped.  [default: 30; Kubernetes: 25]"
)
@click.option("--boot-timeout", metavar="SECONDS", help="Time to become ready.  [default: 60]")
@click.option("--factory", is_flag=True, help="APP makes the application: call it without arguments.")
@click.option(
    "--interface", metavar="NAME", help=f"What APP speaks: {', '.join(INTERFACES)}.  [default: auto]"
)
@click.option(
    "--app-dir", metavar="FOLDER", default=".", help="Where to look for APP first.  [default: here]"
)
@click.option("--loop", metavar="NAME", help=f"The event loop: {', '.join(LOOPS)}.  [default: auto]")
@click.option("--log-level", metavar="LEVEL", help=f"{', '.join(logs.LEVELS)}.  [default: info]")
@click.option("--access-log", is_flag=True, help="Log every request.")
@click.option("--show-counts", is_flag=True, help="Show which worker took how many connections.")
@click.option("--keep-nofile", is_flag=True, help="Leave the soft limit of descriptors as it is.")
@click.option("--name", metavar="TEXT", help="What this service is called in log lines.  [default: APP]")
def serve(**arguments: Any) -> int:
    """Serve the ASGI or WSGI application APP, named as MODULE:ATTRIBUTE, on every core."""
    options = read_options(arguments, os.environ)
    _require_engine()
    if not is_linux():
        click.echo(f"everycore: a cluster needs Linux; serving in one process on {sys.platform}", err=True)
        alone = [sys.executable, *interpreter_flags(), "-P", "-m", "everycore.servers", options.job.text()]
        os.execv(alone[0], alone)  # noqa: S606 - that process is this service from here on
    logs.configure("primary", options.job.log_level)
    _logger.info("starting %d workers (%s)", options.workers.count, options.workers.reason)
    return _run(options)


@dataclass(frozen=True, slots=True)
class Options:
    """All options, checked."""

    job: Job
    workers: Bound
    policy: str | None
    boot_timeout: float
    name: str
    show_counts: bool
    keep_nofile: bool


def read_options(arguments: Mapping[str, Any], environ: Mapping[str, str]) -> Options:
    """From what click read and the environment. Raises ConfigurationError."""

    def resolve(option: str, parse: sources.Parser[Any], default: Any, also: tuple[str, ...] = ()) -> Any:
        argument = arguments[option.removeprefix("--").replace("-", "_")]
        return sources.resolve(option, argument, parse, default, environ=environ, also=also)

    def value(option: str, parse: sources.Parser[Any], default: Any) -> Any:
        return resolve(option, parse, default).value

    activated = [f"fd://{fd}" for fd in activated_descriptors(environ, os.getpid())]
    binds = parse_binds(arguments["binds"] or activated or (DEFAULT_BIND,))
    job = Job(
        app=check_app(arguments["app"]),
        binds=[str(bind) for bind in binds],
        app_dir=_check_folder("--app-dir", arguments["app_dir"]),
        factory=arguments["factory"],
        interface=value("--interface", sources.parse_choice(INTERFACES), "auto"),
        loop=value("--loop", sources.parse_loop, "auto"),
        grace=value(
            "--grace", sources.parse_seconds(0.0), 25.0 if "KUBERNETES_SERVICE_HOST" in environ else 30.0
        ),
        log_level=value("--log-level", sources.parse_choice(logs.LEVELS), "info"),
        access_log=arguments["access_log"],
    )
    return Options(
        job=job,
        workers=worker_bound_of(
            resolve("--workers", sources.parse_workers, "auto", also=("WEB_CONCURRENCY",))
        ),
        policy=value("--policy", sources.parse_choice(POLICIES), None),
        boot_timeout=value("--boot-timeout", sources.parse_seconds(0.1), 60.0),
        name=value("--name", sources.parse_text, job.app),
        show_counts=arguments["show_counts"],
        keep_nofile=arguments["keep_nofile"],
    )


def worker_bound_of(workers: sources.Resolved[int | Literal["auto"]]) -> Bound:
    """The number of workers, and why."""
    if workers.value == "auto":
        bound = worker_bound(cpu_bound(), memory_limit())
        return Bound(bound.count, f"auto: {bound.reason}")
    return Bound(workers.value, workers.source)


def _check_folder(option: str, folder: str) -> str:
    if not os.path.isdir(folder):
        raise ConfigurationError(option, f"there is no folder {folder!r}")
    try:
        return os.path.abspath(folder)
    except FileNotFoundError:
        raise ConfigurationError(
            option, "the folder that we are in is gone; name one from the root"
        ) from None


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
        boot_timeout=options.boot_timeout,
        new_group=True,
        raise_nofile=not options.keep_nofile,
    )
    outcome = run_service(pool, options.name, sys.stdout if options.show_counts else None)
    if outcome.text:
        click.echo(f"everycore: {outcome.text}", err=True)
    return outcome.status
