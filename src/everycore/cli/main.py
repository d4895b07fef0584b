"""The `everycore` command.

This module gathers the commands, and turns what they raise into one sentence and an exit status. Invariant:
`main` never raises for a user's mistake, and may be called in a process that lives on.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import click

from everycore import role
from everycore.cli.options import CONTEXT
from everycore.errors import ConfigurationError, EverycoreError, with_hint
from everycore.ops import outlets
from everycore.ops.job import STATUS_FAILED, STATUS_USAGE
from everycore.system import inherited
from everycore.system.descriptors import fill_standard_streams

#: The module of each command. It is imported when the command is typed.
COMMANDS: Final = {
    "serve": "serve",
    "run": "run",
    "config": "config",
    **dict.fromkeys(("status", "events", "reload", "scale", "drain", "stop", "stacks"), "steering"),
    "top": "top",
    "completion": "completion",
}


class _Commands(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, as click asks for them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, as click asks for it."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"everycore.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises UsageError with an answer for a command of another program."""
        if args and args[0] not in COMMANDS:
            from everycore.cli.answers import answer_to_command  # late: for what is wrong

            text = answer_to_command(args[0])
            if text is not None:
                raise click.UsageError(f"{args[0]}: {text}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, invoke_without_command=True, context_settings=CONTEXT)
@click.version_option(package_name="everycore", message="%(prog)s %(version)s")
@click.pass_context
def everycore(context: click.Context) -> int | None:
    """Run a Python server on every core of this machine.

    One primary process owns the listening sockets and spreads connections evenly over worker processes. A
    worker that dies is replaced, and the connections that it had not yet accepted go to the others.
    """
    if context.invoked_subcommand is not None:
        return None
    click.echo(context.get_help())
    return STATUS_USAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's) and return its exit status."""
    if argv is not None:
        with _living_on():
            return _run(list(argv))
    return _run(sys.argv[1:])


@contextlib.contextmanager
def _living_on() -> Iterator[None]:
    """Restore the signal handlers that a command leaves at "ignore", for its own process would end now."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _run(words: list[str]) -> int:
    try:
        fill_standard_streams()
    except OSError as error:  # no /dev/null
        return _refused(error)
    inherited.learn_of_children()
    role.start_directory = role.working_directory(os.environ)  # a start script may have left an old PWD
    with outlets.never_waiting():
        return _obey(words)


def _obey(words: list[str]) -> int:
    try:
        if asked := os.environ.get("_EVERYCORE_COMPLETE"):
            from everycore.cli.completion import answer  # late: a shell asks for it alone

            return answer(asked, everycore)
        status = everycore.main(words, prog_name="everycore", standalone_mode=False)
    except click.UsageError as error:
        return _complain(error.format_message(), error.ctx, words)
    except ConfigurationError as error:
        return _complain(str(error), None, words)
    except EverycoreError as error:
        _say(str(error))
        return STATUS_FAILED
    except (KeyboardInterrupt, click.Abort):
        return STATUS_FAILED
    except BrokenPipeError:  # --help | head -1
        _forget_stdout()
        return STATUS_FAILED
    except OSError as error:  # no descriptor is left, say, or stdout is on a full disk
        return _refused(error)
    except MemoryError:
        return _refused(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    return status if isinstance(status, int) else 0


def _refused(error: OSError) -> int:
    _say(f"the system refuses what is needed here: {with_hint(error)}")
    return STATUS_USAGE


def _complain(text: str, context: click.Context | None, argv: Sequence[str]) -> int:
    command = context.command_path if context is not None else " ".join(["everycore", *argv[:1]])
    _say(f"{text.rstrip('.')}\nTry '{command} --help'.")
    return STATUS_USAGE


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr is gone; the exit status still tells
        click.echo(f"everycore: {text}", err=True)


def _forget_stdout() -> None:
    """Point stdout to /dev/null: flushing its buffer at interpreter shutdown must not raise again."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
