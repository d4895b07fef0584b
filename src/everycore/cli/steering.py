"""`everycore status`, `events`, `reload`, `scale`, `drain`, `stop`, `stacks`: steer a running service.

Each command asks one service by `everycore.control`, waits for the answer, and prints it. Invariant: exit
status 2 means that nothing was ordered, because it was unclear what, or to which service; 1 means that the
order failed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TextIO, TypeVar

import click
import msgspec

from everycore.cli.options import CONTEXT, completed_by
from everycore.cli.status_text import event_line, event_text, status_lines
from everycore.config.control import OFF
from everycore.config.kinds import Seconds
from everycore.control import ControlEvent, RunningService, connect, services
from everycore.core.control import ServiceStatus
from everycore.errors import ConfigurationError, ControlError
from everycore.ops.job import STATUS_FAILED, STATUS_STOPPED, STATUS_USAGE
from everycore.system.outlet import Outlet

#: The variable from which `serve` and `run` read the path too.
_VARIABLE: Final = "EVERYCORE_CONTROL"
#: The kinds of errors that are the caller's: nothing was ordered.
_OF_USAGE: Final = frozenset(
    {"no_service", "several", "forbidden", "bad_request", "unknown_worker", "version", "bad_answer"}
)
_STATUSES: Final = """
\b
Exit status:
  0  done
  1  the order failed, or no answer came
  2  nothing was ordered: wrong usage, no such service, or several services that could be meant
"""

F = TypeVar("F", bound=Callable[..., Any])


def _seconds(text: str) -> float:
    try:
        return Seconds(0.001).from_text(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _worker(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise click.BadParameter(f"must be the id of a worker, as everycore status shows it, not {text!r}")
    return int(text)


def asks(*, waits: bool) -> Callable[[F], F]:
    """Add the options that pick a service, and, if `waits`, `--timeout`."""

    def add(function: F) -> F:
        if waits:
            text = "How long to wait for the result.  [default: no limit]"
            function = click.option("--timeout", type=_seconds, metavar="SECONDS", help=text)(function)
        path_help = f"The control socket, for a service with --control PATH.  [variable: {_VARIABLE}]"
        path = click.option("--control", metavar="PATH", help=path_help)
        pid = click.option("--pid", type=click.IntRange(1), metavar="PID", help="The primary's process id.")
        name_help = "The service's name, as everycore status shows it."
        name = click.option(
            "--name", "-n", metavar="NAME", shell_complete=completed_by("running"), help=name_help
        )
        return name(pid(path(function)))

    return add


def _command(words: str) -> Callable[[Callable[..., Any]], click.Command]:
    return click.command(short_help=words, epilog=_STATUSES, context_settings=CONTEXT)


_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


@_command("Show a running service and its workers.")
@_JSON
@asks(waits=False)
def status(*, as_json: bool, name: str | None, pid: int | None, control: str | None) -> int:
    """Show the running services of this user, or the one that the options pick."""

    def show() -> int:
        found = _all_of_them() if (name, pid, path_of(control)) == (None, None, None) else None
        if found is None or len(found) < 2:
            with connect(name, pid=pid, path=path_of(control)) as service:
                found = [service.status()]
        for number, one in enumerate(found):
            _show_status(one, as_json=as_json, is_first=number == 0)
        return STATUS_STOPPED

    return saying(show)


def _all_of_them() -> list[ServiceStatus]:
    """The status of all services, if there are several; else an empty list."""
    names = services()
    found = []
    for one in names if len(names) > 1 else ():
        with contextlib.suppress(ControlError), connect(one.name, pid=one.pid) as service:
            found.append(service.status())
    return found


def _show_status(status: ServiceStatus, *, as_json: bool, is_first: bool) -> None:
    if as_json:
        _print(msgspec.json.encode(status).decode())
        return
    if not is_first:
        _print("")
    for line in status_lines(status, time.time()):
        _print(line)


@_command("Show what has happened to a running service.")
@click.option("--follow", "-f", is_flag=True, help="Keep printing new events until the service ends.")
@_JSON
@asks(waits=False)
def events(*, follow: bool, as_json: bool, name: str | None, pid: int | None, control: str | None) -> int:
    """Show the last events of a service: its workers' starts and ends, its reloads."""

    def show() -> int:
        with connect(name, pid=pid, path=path_of(control)) as service:
            found: Iterator[ControlEvent] = service.follow() if follow else iter(service.events())
            for event in found:
                _print(msgspec.json.encode(event).decode() if as_json else event_line(event))
        return STATUS_STOPPED

    return saying(show)


@_command("Replace all workers of a running service.")
@asks(waits=True)
def reload(*, name: str | None, pid: int | None, control: str | None, timeout: float | None) -> int:
    """Read the settings file again and replace all workers, each new one ready before the old one leaves."""

    def order(service: RunningService) -> str:
        result = service.reload(timeout=timeout, on_event=_show_progress)
        return f"reload {result.generation} is done: all workers are new"

    return _ordering(order, name, pid, control)


@click.command(
    short_help="Change the number of workers of a running service.",
    epilog=_STATUSES,
    context_settings={**CONTEXT, "ignore_unknown_options": True},
)
@click.argument("workers", metavar="N|+N|-N", required=False)
@asks(waits=True)
def scale(
    *, workers: str | None, name: str | None, pid: int | None, control: str | None, timeout: float | None
) -> int:
    """Keep N workers from now on, or N more (+N), or N fewer (-N). Surplus workers finish first."""
    number = (workers or "").removeprefix("+").removeprefix("-")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise ConfigurationError("scale", f"needs a number of workers: N, +N or -N, not {workers or ''!r}")
    is_step = not str(workers)[0].isdigit()

    def order(service: RunningService) -> str:
        to, by = (None, int(str(workers))) if is_step else (int(number), None)
        result = service.scale(to, by=by, timeout=timeout, on_event=_show_progress)
        return f"scaled from {result.before} to {result.size} workers"

    return _ordering(order, name, pid, control)


@_command("Let a worker finish its work and leave; its slot is filled again.")
@click.argument("worker", metavar="ID", type=_worker)
@asks(waits=True)
def drain(
    *, worker: int, name: str | None, pid: int | None, control: str | None, timeout: float | None
) -> int:
    """Let the worker of that id finish its work and leave. Another one takes its slot."""

    def order(service: RunningService) -> str:
        result = service.drain(worker, timeout=timeout, on_event=_show_progress)
        return f"worker {result.worker} has left: {result.status}"

    return _ordering(order, name, pid, control)


@_command("Stop a running service.")
@asks(waits=True)
def stop(*, name: str | None, pid: int | None, control: str | None, timeout: float | None) -> int:
    """Stop the service as SIGTERM does: its workers finish their work. The command waits for the end."""

    def order(service: RunningService) -> str:
        service.stop(timeout=timeout, on_event=_show_progress)
        return f"{service.name.name} (pid {service.name.pid}) has stopped"

    return _ordering(order, name, pid, control)


@_command("Print the stacks of a worker, or of all, even of a blocked one.")
@click.argument("worker", metavar="[ID]", type=_worker, required=False)
@_JSON
@asks(waits=False)
def stacks(
    *, worker: int | None, as_json: bool, name: str | None, pid: int | None, control: str | None
) -> int:
    """Make workers print the stacks of all their threads to their standard error, and say where that goes."""

    def show() -> int:
        with connect(name, pid=pid, path=path_of(control)) as service:
            found = service.stacks(worker)
        for one in found:
            if as_json:
                _print(msgspec.json.encode(one).decode())
            elif one.problem is not None:
                _print(f"worker {one.worker} (pid {one.pid}) was not asked: {one.problem}")
            else:
                where = one.printed_to or "its standard error"
                _print(f"worker {one.worker} (pid {one.pid}) is printing its stacks to {where}")
        return STATUS_FAILED if any(one.problem is not None for one in found) else STATUS_STOPPED

    return saying(show)


# --- what they have in common -------------------------------------------------------------------------------


def _ordering(
    order: Callable[[RunningService], str], name: str | None, pid: int | None, control: str | None
) -> int:
    def act() -> int:
        with connect(name, pid=pid, path=path_of(control)) as service:
            try:
                _print(order(service))
            except KeyboardInterrupt:
                _say("stopped waiting; the service still carries out the order")
                return STATUS_FAILED
        return STATUS_STOPPED

    return saying(act)


def saying(act: Callable[[], int]) -> int:
    """Run `act` and return its exit status. A ControlError is printed as one sentence."""
    try:
        return act()
    except ControlError as error:
        _say(str(error))
        return STATUS_USAGE if error.kind in _OF_USAGE else STATUS_FAILED


def path_of(control: str | None) -> str | None:
    """The path that the option or the variable gives; None without. Raises ConfigurationError for `off`."""
    found = control if control is not None else os.environ.get(_VARIABLE) or None
    if control == OFF:
        raise ConfigurationError("--control", "needs a path here: without a socket, nothing can be asked")
    return None if found == OFF else found


def _show_progress(event: ControlEvent) -> None:
    if event.event in ("forked", "ready", "exited"):
        _say(event_text(event))


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"everycore: {text}", err=True)


def _print(text: str) -> None:
    """Print to stdout, waiting for a slow reader.

    A service's own output is dropped then; this must not be.
    """
    stream: TextIO | None = sys.__stdout__ if isinstance(sys.stdout, Outlet) else sys.stdout
    if stream is not None:
        stream.write(f"{text}\n")
        stream.flush()
