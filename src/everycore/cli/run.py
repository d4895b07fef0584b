"""`everycore run`: any program on every core, unchanged.

This module separates everycore's options from the program, checks what it can before anything starts, and
calls `ops.program`. Invariant: everything after the program's name belongs to the program, and no user code
runs in this process.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

import everycore.launch
from everycore.cli import activation
from everycore.cli.command import SettingsCommand, words_with_value
from everycore.cli.files import check_control, check_logs, check_pid, log_file, why_not_there
from everycore.cli.observing import check_metrics
from everycore.cli.options import (
    CONTEXT,
    Given,
    Values,
    completed_by,
    folder,
    naming_sources,
    read_values,
    worker_count,
)
from everycore.cli.reloading import development, watched
from everycore.cli.starting import Plan, become, check_proxies, start
from everycore.cli.users import WorkerUser, user_of
from everycore.config.tree import RunSettings
from everycore.errors import ConfigurationError
from everycore.ops import interpreter
from everycore.servers.binds import parse_binds
from everycore.settings import Settings
from everycore.system.machine import Bound, is_linux
from everycore.system.processes import interpreter_flags

if TYPE_CHECKING:
    from everycore.core.changes import WatchedFiles

EPILOG = """
\b
Examples:
  everycore run server.py
  everycore run --workers 4 server.py --port 8080
  everycore run -m http.server 8000
  everycore run --reload server.py               for development: restart the workers at each change
  python -X dev -m everycore run server.py

\b
Signals:
  INT (Ctrl-C), TERM  give no more connections to the workers, and send each of them TERM; a second INT
                      ends everything at once
  HUP                 reload: read the settings file again and replace all workers; each new worker is ready
                      before an old one leaves
  TTIN, TTOU          add a worker, remove a worker; not at a terminal, where the shell uses these signals
  USR1                reopen --log-file; passed to every worker whose program handles it
  TSTP (Ctrl-Z), CONT suspend and resume the primary with all workers
  QUIT                end at once, and print the stacks of every worker

\b
Exit status:
  0  stopped as asked, or every worker has exited with status 0 without having listened
  1  failed, or was told to end at once
  2  wrong usage or configuration
  3  the program could not start (its traceback is printed once), or all slots have failed

Every worker runs the program as python would. All workers listen on the same addresses, and each connection
goes to one of them. A worker that ends is replaced, unless it exits with status 0 before it has listened.

Every setting can also be given by a variable of its name, such as EVERYCORE_GRACE, or in a settings file:
everycore.toml, or pyproject.toml below [tool.everycore]; for example grace = 25. An option overrides a
variable, and a variable overrides the file. The number of workers is also read from WEB_CONCURRENCY.
`everycore config` shows every value, and where it came from.
"""

_CONCURRENCY: Final = "WEB_CONCURRENCY"
_MODULE: Final = "--everycore-module"
_IN_ARCHIVE: Final = (
    "import signal; mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); "
    "from everycore.launch.runner import main; main(globals(), mask)"
)


class RunCommand(SettingsCommand):
    """A command whose options end where the program begins: at the first plain word, or at `-m`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Mark the end of our options: after `-m MODULE`, click would look for more of them."""
        at = self.begins(args)
        word = args[at] if at < len(args) else ""
        if word.startswith("-m"):
            module = [word[2:]] if len(word) > 2 else []
            args = [*args[:at], _MODULE, "--", *module, *args[at + 1 :]]
        return super().parse_args(ctx, args)

    def begins(self, args: Sequence[str]) -> int:
        """The index of the first word that is not one of our options: the program, or its `-m`."""
        with_value = words_with_value(self.params)
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] not in ("-", "--"):
            if args[at].startswith("-m"):
                break
            at += 2 if args[at] in with_value else 1
        return at

    def completes_files(self, args: Sequence[str]) -> bool:
        """Whether the next word is an argument of the program, for which a shell can only offer files."""
        own = self.begins(args)
        return len(args) > own + (args[own : own + 1] == ["-m"])


@click.command(
    cls=RunCommand,
    tree="run",
    short_help="Run any Python program that listens.",
    epilog=EPILOG,
    options_metavar="[OPTIONS]",
    context_settings={**CONTEXT, "allow_interspersed_args": False},
)
@click.argument(
    "program",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="SCRIPT|-m MODULE [ARGS]...",
    shell_complete=completed_by("programs"),
)
@click.option(_MODULE, "is_module", is_flag=True, hidden=True)
@click.pass_context
def run(context: click.Context, /, **_: Any) -> int:
    """Run a Python program, a script or a module, in several processes that listen on the same addresses."""
    command = context.command
    assert isinstance(command, SettingsCommand)
    given = command.given(context)
    program = _check_program(list(context.params["program"]), is_module=context.params["is_module"])
    options = read_options(given, program, os.environ)
    watch = watch_of(given, options, os.environ)
    if not is_linux():
        click.echo(f"everycore: a cluster needs Linux; running in one process on {sys.platform}", err=True)
        words = [sys.executable, *interpreter_flags(), *options.program]
        become(words, options.settings, options.folder)
    from everycore.ops.program import run_program  # late: a wrong option must not wait for asyncio

    return start(
        plan(options),
        lambda: plan(read_options(given, program, os.environ)),
        lambda pool: run_program(
            pool,
            options.name,
            options.settings.stop_delay,
            development(watch, options.values, options.folder or given.here),
        ),
        may_finish=True,
    )


class Options(msgspec.Struct, frozen=True):
    """All settings, checked. `program` is what follows `python` on its command line."""

    program: list[str]
    settings: RunSettings
    workers: Bound
    name: str
    folder: str | None
    log_file: str | None
    user: WorkerUser
    values: Values


def read_options(given: Given, program: list[str], environ: Mapping[str, str]) -> Options:
    """Read and check the command line, the environment and the file. Raises ConfigurationError."""
    values = read_values(given, environ)
    settings: RunSettings = values.tree(RunSettings)
    name = settings.name or (program[1] if program[0] == "-m" else program[0])
    with naming_sources(values):
        where = folder(values, given.here)
        check_pid(values, where or given.here)
        check_control(values, where or given.here)
        check_metrics(values, where or given.here)
        check_logs(values, where or given.here)
        check_proxies(settings)
        user = user_of(settings, parse_binds(settings.permit, "--permit"), where or given.here)
        if settings.permit and user.uid is None:
            raise ConfigurationError(
                "--permit", "has an effect with --user only: else the workers may listen on any address"
            )
    log = log_file(values, where or given.here)
    return Options(program, settings, worker_count(values), name, where, log, user, values)


def watch_of(given: Given, options: Options, environ: Mapping[str, str]) -> WatchedFiles | None:
    """As `cli.reloading.watched`, for a program."""
    folder = options.folder or given.here
    with naming_sources(options.values):
        script = [] if options.program[0] == "-m" else [os.path.dirname(options.program[0])]
        return watched(given, options.values, environ, folder, [os.path.join(folder or "", *script)])


def _check_program(program: list[str], *, is_module: bool) -> list[str]:
    if not program:
        raise ConfigurationError("run", "needs a program: SCRIPT, or -m MODULE")
    if is_module:
        return ["-m", *program]
    if program[0] in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
        raise ConfigurationError("run", "a program from standard input cannot be run several times")
    if not os.path.exists(program[0]):
        hint = f"; to run the module: everycore run -m {program[0]}" if _is_module(program[0]) else ""
        raise ConfigurationError("run", why_not_there("file", program[0]) + hint)
    return program


def _is_module(name: str) -> bool:
    return name.isidentifier() and importlib.util.find_spec(name) is not None


def _one_process() -> dict[str, str]:
    """The variable that keeps a server in a worker from starting as many processes again."""
    return {_CONCURRENCY: "1"} if _CONCURRENCY in os.environ else {}


def plan(options: Options) -> Plan:
    """How to run the program."""
    settings = options.settings
    loop = settings.loop if settings.port_zero == "auto" else f"{settings.loop},{settings.port_zero}"
    command = interpreter.command(everycore.launch, _IN_ARCHIVE, [loop, *options.program])
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
                **_one_process(),
                **settings.env,
            },
            cwd=options.folder,
            umask=settings.umask,
            stdio=("null", "inherit", "inherit"),
            preload=settings.preload or None,
            preload_force=settings.preload_force,
            **options.user.settings,
        ),
        folder=options.folder,
        log_file=options.log_file,
        owner=options.user.owner,
        boot_timeout=None,  # a program may run without ever listening
        shutdown_timeout=0.0,
    )
