"""`everycore serve`: an ASGI or WSGI application on every core.

This module reads and checks all settings before anything starts, and calls `ops.service`. Invariant: no user
code runs in this process, and nothing is imported that a wrong option would make useless.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import click
import msgspec

import everycore.servers
from everycore.cli import activation
from everycore.cli.activation import activated_descriptors
from everycore.cli.command import SettingsCommand
from everycore.cli.engine import check_engine, require_engine
from everycore.cli.files import (
    check_control,
    check_files,
    check_pid,
    log_file,
    unread_variables,
    why_not_there,
)
from everycore.cli.observing import check_metrics, metrics_bind
from everycore.cli.options import (
    CONTEXT,
    FOLDER_IS_GONE,
    Given,
    Values,
    completed_by,
    folder,
    naming_sources,
    read_values,
    worker_count,
)
from everycore.cli.reloading import development, watched
from everycore.cli.starting import TRUST, Plan, become, check_proxies, start
from everycore.cli.users import WorkerUser, user_of
from everycore.config.addresses import binds_of, said_by
from everycore.config.tree import ServeSettings
from everycore.errors import ConfigurationError
from everycore.ops import interpreter
from everycore.ops.job import SECRETS, Job, check_app
from everycore.ops.ownership import give_sockets, parse_owner
from everycore.servers.binds import Bind, UnixBind, parse_binds
from everycore.settings import Settings
from everycore.system.machine import Bound, is_linux
from everycore.system.processes import interpreter_flags

if TYPE_CHECKING:
    from everycore.core.changes import WatchedFiles
    from everycore.ops.service import Outcome
    from everycore.pool import Pool

_TRUSTED: Final = "FORWARDED_ALLOW_IPS"  # uvicorn's own variable
_IN_ARCHIVE: Final = "import runpy; runpy.run_module('everycore.servers', run_name='__main__')"

EPILOG = """
\b
Examples:
  everycore serve main:app
  everycore serve --workers 4 --bind 0.0.0.0:80 --bind unix:/run/shop.sock shop.web:app
  everycore serve --factory --app-dir src shop:create_app
  everycore serve --reload main:app              for development: restart the workers at each change

\b
Signals:
  TERM                finish the requests at hand, and one more of each connected client, within the grace
  INT (Ctrl-C)        the same, but close idle connections at once; a second INT ends everything at once
  HUP                 reload: read the settings file again and replace all workers; each new worker is ready
                      before an old one leaves
  TTIN, TTOU          add a worker, remove a worker; not at a terminal, where the shell uses these signals
  USR1                reopen the log files, in all processes
  TSTP (Ctrl-Z), CONT suspend and resume the primary with all workers
  QUIT                end at once, and print the stacks of every worker

\b
Exit status:
  0  stopped as asked
  1  could not listen, failed, or was told to end at once
  2  wrong usage or configuration
  3  the application could not start (its traceback is printed once), or all slots have failed

Every setting can also be given by a variable of its name, such as EVERYCORE_GRACE, or in a settings file:
everycore.toml, or pyproject.toml below [tool.everycore]; for example grace = 25. An option overrides a
variable, and a variable overrides the file. The number of workers is also read from WEB_CONCURRENCY.
`everycore config` shows every value, and where it came from.
"""


@click.command(
    cls=SettingsCommand,
    tree="serve",
    has_engine=True,
    short_help="Serve an ASGI or WSGI application.",
    epilog=EPILOG,
    context_settings=CONTEXT,
)
@click.argument("app", metavar="APP", required=False, shell_complete=completed_by("applications"))
@click.version_option(package_name="everycore", message="everycore %(version)s")
@click.pass_context
def serve(context: click.Context, /, **_: Any) -> int:
    """Serve the ASGI or WSGI application APP, given as MODULE:ATTRIBUTE, on every core.

    MODULE:FACTORY(ARGUMENTS) calls a factory that makes the application.
    """
    given = given_by(context)
    options = read_options(given, os.environ)
    require_engine(options.settings.engine, options.values)
    watch = watch_of(given, options, os.environ)
    if not is_linux():
        click.echo(f"everycore: a cluster needs Linux; serving in one process on {sys.platform}", err=True)
        alone = [sys.executable, *interpreter_flags(), "-P", "-m", "everycore.servers", options.job.text()]
        become(alone, options.settings, options.folder, **_secrets(options.values))
    from everycore.ops.service import run_service  # late: a wrong option must not wait for asyncio

    settings = options.settings

    def serve_by(pool: Pool) -> Outcome:
        if options.owner is not None:
            give_sockets(pool, options.owner)
        counts = sys.stdout if settings.show_counts else None
        reloads = development(watch, options.values, options.folder or given.here)
        return run_service(pool, options.name, counts, settings.stop_delay, options.job.scheme, reloads)

    return start(plan(options), lambda: plan(read_options(given, os.environ)), serve_by)


def watch_of(given: Given, options: Options, environ: Mapping[str, str]) -> WatchedFiles | None:
    """As `cli.reloading.watched`, for an application."""
    with naming_sources(options.values):
        folder = options.folder or given.here
        return watched(given, options.values, environ, folder, [options.job.app_dir])


def given_by(context: click.Context) -> Given:
    """What the command line says, APP included."""
    command = context.command
    assert isinstance(command, SettingsCommand)
    given = command.given(context)
    if context.params["app"] is not None:
        given.options["app"] = context.params["app"], "APP"
    return given


class Options(msgspec.Struct, frozen=True):
    """All settings, checked."""

    job: Job
    settings: ServeSettings
    workers: Bound
    name: str
    folder: str | None
    owner: tuple[int, int] | None
    user: WorkerUser
    values: Values


def read_options(given: Given, environ: Mapping[str, str]) -> Options:
    """Read and check the command line, the environment and the file. Raises ConfigurationError."""
    values = read_values(given, environ)
    with naming_sources(values):
        return _checked(given, values, environ)


def _checked(given: Given, values: Values, environ: Mapping[str, str]) -> Options:
    settings: ServeSettings = values.tree(ServeSettings)
    where = folder(values, given.here)
    activated = [f"fd://{fd}" for fd in activated_descriptors(environ, os.getpid())]
    binds = parse_binds(binds_of(values.found, activated), said_by(values.found))
    app = _app(settings, values)
    job = Job(
        app=app,
        binds=[str(bind) for bind in binds],
        app_dir=_check_folder("--app-dir", settings.app_dir, where or given.here),
        factory=settings.factory,
        interface=settings.interface,
        loop=_loop(settings),
        grace=settings.grace,
        shutdown_timeout=settings.shutdown_timeout,
        spread=0.0 if settings.reload and settings.spread is None else settings.spread,
        log_level=settings.log_level,
        log_file=log_file(values, where or given.here),
        log_format=settings.log_format,
        access_log=_logs_requests(settings, values),
        access_logfile=settings.access_logfile,
        access_logformat=settings.access_logformat,
        log_config=settings.log_config,
        backlog=settings.backlog,
        socket_mode=settings.socket_mode,
        lifespan=settings.lifespan,
        threads=settings.threads,
        env_file=settings.env_file,
        engine_name=settings.engine,
        engine=values.engine(secret=False),
    )
    check_engine(values, settings.engine)
    check_files(values, where or given.here)
    check_pid(values, where or given.here)
    check_proxies(settings)
    check_control(values, where or given.here)
    check_metrics(values, where or given.here, binds)
    _check_sockets(settings, binds)
    unread = [*_untrusted(values, binds, environ), *unread_variables(values, where or given.here)]
    values.ignored = [*values.ignored, *unread]
    user = user_of(settings, [*binds, *_datagrams(settings, values)], where or given.here)
    owner = user.owner if settings.socket_owner is None else parse_owner(settings.socket_owner)
    return Options(job, settings, worker_count(values), settings.name or app, where, owner, user, values)


def check(given: Given, environ: Mapping[str, str]) -> Values:
    """The values, checked as far as that is possible without APP. Raises ConfigurationError."""
    values = read_values(given, environ)
    if values.found["app"].value is None:
        given.options["app"] = "APP:APP", "APP"  # the only setting without a default
        watch_of(given, read_options(given, environ), environ)
        return values
    options = read_options(given, environ)
    watch_of(given, options, environ)
    return options.values


def _datagrams(settings: ServeSettings, values: Values) -> Sequence[Bind]:
    if settings.engine != "hypercorn":
        return ()
    from everycore.servers.hypercorn_options import QUIC  # late: only one engine needs it

    return parse_binds(values.engine(secret=False).get(QUIC, ()), "--quic-bind")


def _app(settings: ServeSettings, values: Values) -> str:
    if settings.app is None:
        if settings.metrics is not None:
            metrics_bind(settings.metrics)  # typed as granian's switch, it has taken APP
        raise ConfigurationError("APP", "is missing: name the application, as in everycore serve main:app")
    source = values.found["app"].source
    return check_app(settings.app, "argument" if source == "APP" else source, factory=settings.factory)


def _loop(settings: ServeSettings) -> Literal["auto", "asyncio", "uvloop"]:
    """The event loop: asyncio's if `--trust-proxy-protocol` is set, else the setting.

    The primary replaces the peer's address by the client's, and uvloop asks the kernel instead, which knows
    the proxy. An engine that took the proxy for the client would believe X-Forwarded-For, which clients can
    forge.
    """
    if not settings.trust_proxy_protocol:
        return settings.loop
    if settings.loop == "uvloop":
        raise ConfigurationError(
            TRUST, "works with --loop asyncio only: uvloop takes the proxy's address for the client's"
        )
    return "asyncio"


def _logs_requests(settings: ServeSettings, values: Values) -> bool:
    switch = values.found["access_log"]
    for name in ("access_logfile", "access_logformat"):
        detail = values.found[name]
        if switch.value is False and detail.value is not None and detail.layer >= switch.layer:
            raise ConfigurationError(
                detail.source, f"contradicts {switch.source}, which switches the access log off"
            )
    if settings.access_log is not None:
        return settings.access_log
    given = settings.access_logfile, settings.access_logformat, settings.log_config
    return any(value is not None for value in given)


def _check_sockets(settings: ServeSettings, binds: Sequence[Bind]) -> None:
    if any(isinstance(bind, UnixBind) for bind in binds):
        return
    for option, value in (("--socket-mode", settings.socket_mode), ("--socket-owner", settings.socket_owner)):
        if value is not None:
            raise ConfigurationError(
                option, "applies to unix sockets only, and there is none; --bind unix:PATH makes one"
            )


def _untrusted(values: Values, binds: Sequence[Bind], environ: Mapping[str, str]) -> Iterator[str]:
    """Warn of a list of proxies without the one on a unix socket: HTTPS would silently become HTTP."""
    found, headers = (values.found.get(name) for name in ("forwarded_allow_ips", "proxy_headers"))
    hosts, source = environ.get(_TRUSTED), f"the variable {_TRUSTED}"
    if found is not None and found.value is not None:
        hosts, source = found.value, found.source
    if not hosts or "*" in hosts or (headers is not None and headers.value is False):
        return
    for bind in binds:
        if isinstance(bind, UnixBind):
            yield (
                f"{source} does not name the proxy that connects by {bind}, which has no address: its"
                " X-Forwarded headers are ignored; '*' trusts it"
            )


def _check_folder(option: str, folder: str, base: str | None) -> str:
    """The absolute path of `folder`. It begins at `base`, None if the current folder no longer exists."""
    # The path is not normalized: each worker resolves it when it starts.
    path = os.path.join(base or "", folder) if folder != "." or base is None else base
    if not os.path.isdir(path):
        raise ConfigurationError(option, why_not_there("folder", folder))
    if not os.path.isabs(path):
        raise ConfigurationError(option, FOLDER_IS_GONE)
    return path


def _secrets(values: Values) -> dict[str, str]:
    """The environment variable that gives workers the secrets, if there are any."""
    secrets = values.engine(secret=True)
    if not secrets:
        return {}
    import json  # late: few services have secrets

    return {SECRETS: json.dumps(secrets)}


def plan(options: Options) -> Plan:
    """How to run the application."""
    # -P: the current folder must not shadow the modules that everycore imports. The application's own folder
    # becomes the first of `sys.path` after that.
    command = interpreter.command(everycore.servers, _IN_ARCHIVE, [options.job.text()], flags=["-P"])
    settings = options.settings
    return Plan(
        name=options.name,
        values=options.values,
        settings=settings,
        workers=options.workers,
        worker=Settings(
            exec=command,
            env={
                **dict.fromkeys(activation.VARIABLES),
                **interpreter.environment(),
                **settings.env,
                **_secrets(options.values),
            },
            cwd=options.folder,
            umask=settings.umask,
            stdio=("null", "inherit", "inherit"),
            preload="everycore.servers.preparing:prepare" if settings.preload else None,
            preload_force=settings.preload_force,
            **options.user.settings,
        ),
        folder=options.folder,
        log_file=options.job.log_file,
        owner=options.user.owner,
        boot_timeout=settings.boot_timeout,
        shutdown_timeout=settings.shutdown_timeout,
    )
