"""`everycore run`: any program on every core, unchanged.

Tell our options from the program, check what can be checked before anything starts, and hand over to
`ops.program`. Invariant: everything behind the program's name is the program's; no user code runs in this
process.
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

import everycore.launch
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
from everycore.cli.sources import why_not_there
from everycore.errors import ConfigurationError
from everycore.ops import interpreter, logs
from everycore.settings import Settings
from everycore.system.machine import Bound, is_linux
from everycore.system.processes import interpreter_flags

log = logging.getLogger("everycore.cli")


EPILOG = """
\b
Examples:
  everycore run server.py
  everycore run --workers 4 server.py --port 8080
  everycore run -m http.server 8000
  python -X dev -m everycore run server.py

\b
Signals:
  INT (Ctrl-C), TERM  take every worker out of the rotation and send it TERM; INT after that ends all at once
  HUP                 reload: replace all workers, each new one ready before the old one leaves
  TTIN, TTOU          one worker more, one fewer; not at a terminal, where these belong to the shell
  USR1                given to every worker whose program has a handler for it
  TSTP (Ctrl-Z), CONT stop for a while and go on, with all workers
  QUIT                end all at once, and print the stacks of every worker

\b
Exit status:
  0  stopped as asked, or every worker has finished with status 0 without having listened
  1  failed, or was told to end at once
  2  wrong usage or configuration
  3  the program could not start; its traceback is printed once

Every worker runs the program as python would: all of them listen on the same addresses, and each connection
goes to one of them. A worker that ends is replaced, unless it ends with status 0 before it has listened.

Every option that takes a value can also be set by a variable of its name, such as EVERYCORE_GRACE; the option
wins. The number of workers is also read from WEB_CONCURRENCY.
"""

_MODULE: Final = "--everycore-module"
#: Options without a value.
_FLAGS: Final = ("-h", "--help", "--keep-nofile")
_IN_ARCHIVE: Final = (
    "import signal; mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); "
    "from everycore.launch.runner import main; main(globals(), mask)"
)


class _RunCommand(click.Command):
    """A command whose options end where the program begins: at the first word, or with `-m`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Mark the end of our options, for after `-m MODULE` click would go on to look for some."""
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] not in ("-", "--"):
            word = args[at]
            if word.startswith("-m"):
                module = [word[2:]] if len(word) > 2 else []
                args = [*args[:at], _MODULE, "--", *module, *args[at + 1 :]]
                break
            at += 1 if "=" in word or word in _FLAGS else 2
        return super().parse_args(ctx, args)


@click.command(
    cls=_RunCommand,
    short_help="Run any Python program that listens.",
    epilog=EPILOG,
    options_metavar="[OPTIONS]",
    context_settings={**CONTEXT, "allow_interspersed_args": False},
)
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT|-m MODULE [ARGS]...")
@click.option(_MODULE, "is_module", is_flag=True, hidden=True)
@workers_option
@policy_option
@loop_option("The loop of a program that leaves it to asyncio")
@grace_option
@stop_delay_option
@surge_option
@log_level_option
@keep_nofile_option
@name_option("the program")
def run(**arguments: Any) -> int:
    """Run a Python program, a script or a module, in several processes that listen on the same addresses."""
    options = read_options(arguments, os.environ)
    if not is_linux():
        click.echo(f"everycore: a cluster needs Linux; running in one process on {sys.platform}", err=True)
        command = [sys.executable, *interpreter_flags(), *options.program]
        os.execv(command[0], command)  # noqa: S606 - that process is the program from here on
    logs.configure("primary", options.log_level)
    log.info("starting %d workers (%s)", options.workers.count, options.workers.reason)
    return _run(options)


@dataclass(frozen=True, slots=True)
class Options:
    """All options, checked. `program` is what stands behind `python`."""

    program: list[str]
    workers: Bound
    policy: str | None
    loop: str
    grace: float
    stop_delay: float
    surge: int
    log_level: str
    name: str
    keep_nofile: bool


def read_options(arguments: Mapping[str, Any], environ: Mapping[str, str]) -> Options:
    """From what click read and the environment. Raises ConfigurationError."""
    values = Values(arguments, environ)
    program = _check_program(list(arguments["program"]), is_module=arguments["is_module"])
    return Options(
        program=program,
        workers=values.workers(),
        policy=values.policy(),
        loop=values.loop(),
        grace=values.grace(),
        stop_delay=values.stop_delay(),
        surge=values.surge(),
        log_level=values.log_level(),
        name=values.name(program[1] if program[0] == "-m" else program[0]),
        keep_nofile=arguments["keep_nofile"],
    )


def _check_program(program: list[str], *, is_module: bool) -> list[str]:
    if not program:
        raise ConfigurationError("run", "needs a program: SCRIPT, or -m MODULE")
    if is_module:
        return ["-m", *program]
    if program[0] in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
        raise ConfigurationError("run", "a program from standard input cannot be run several times")
    if not os.path.exists(program[0]):
        hint = f"; the module of that name: everycore run -m {program[0]}" if _is_module(program[0]) else ""
        raise ConfigurationError("run", why_not_there("file", program[0]) + hint)
    return program


def _is_module(name: str) -> bool:
    return name.isidentifier() and importlib.util.find_spec(name) is not None


def _run(options: Options) -> int:
    from everycore.ops.program import run_program  # late: asyncio is of no use to a wrong option
    from everycore.pool import Pool

    command = interpreter.command(everycore.launch, _IN_ARCHIVE, [options.loop, *options.program])
    pool = Pool(
        options.workers.count,
        settings=Settings(exec=command, env=interpreter.environment(), stdio=("null", "inherit", "inherit")),
        policy=options.policy,
        grace=options.grace,
        boot_timeout=None,  # a program need not listen
        may_finish=True,
        surge=options.surge,
        signals=True,
        new_group=True,
        raise_nofile=not options.keep_nofile,
    )
    outcome = run_program(pool, options.name, options.stop_delay)
    if outcome.text:
        click.echo(f"everycore: {outcome.text}", err=True)
    return outcome.status
