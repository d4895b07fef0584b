"""From settings to a running process.

The command line, environment, standard streams, identity and descriptors of one worker. Invariant: after a
failed spawn nothing of it is left. Decides nothing about when.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from everycore import role
from everycore.core.permits import Permits, permit_of
from everycore.errors import ConfigurationError
from everycore.settings import Settings
from everycore.system import processes
from everycore.system.descriptors import fill_standard_streams
from everycore.system.leash import Leash
from everycore.system.plain_files import APPENDING
from everycore.system.seam import System
from everycore.system.sockets import absolute_path, on_the_wire
from everycore.ticket import Ticket

#: For programs that do not import us: which worker it is, by id, by slot, by generation.
WORKER_ID_VARIABLE: Final = "EVERYCORE_WORKER_ID"
SLOT_VARIABLE: Final = "EVERYCORE_SLOT"
GENERATION_VARIABLE: Final = "EVERYCORE_GENERATION"


class SpawnTerms(msgspec.Struct, frozen=True):
    """What every worker of a cluster is told. Times in seconds; `beat` as in the `Ticket`.

    least_beat: what `beat` is where nobody watches for stalls. tally: the memory file for the workers' own
    metrics; -1: there is none.
    """

    grace: float
    orphan_grace: float
    max_message: int
    new_group: bool
    shutdown_timeout: float = 0.0
    beat: float = 0.0
    least_beat: float = 0.0
    tally: int = -1


class SpawnRequest(msgspec.Struct, frozen=True):
    """What is asked of one fork.

    env: what is added to the worker's environment; None removes a variable. slot: None: the lowest free one.
    raises: a setting that can't work is raised; else it becomes the worker's exit.
    """

    settings: Settings
    env: Mapping[str, str | None] | None = None
    slot: int | None = None
    generation: int = 0
    raises: bool = True


class WorkerIdentity(msgspec.Struct, frozen=True):
    """Which worker it is; `row` is its row of the board, `tally` its slot of the tally; 0 if it has none."""

    id: int
    slot: int
    generation: int
    row: int = 0
    tally: int = 0


class Child(msgspec.Struct, frozen=True):
    """A started worker and our ends of its pipes.

    `permits`: what it may listen on, if it has another user than we have; None: whatever we may.
    """

    process: processes.Spawned
    channel: socket.socket
    link: socket.socket
    permits: Permits | None = None


def command_line(settings: Settings, system: System) -> list[str]:
    """The argument vector. Raises ConfigurationError if this process cannot be started again."""
    if settings.exec is None:
        return system.own_command(settings.exec_argv, settings.args)
    if isinstance(settings.exec, (str, os.PathLike)):
        return processes.script_command(os.fspath(settings.exec), settings.exec_argv, settings.args)
    return [*settings.exec, *(settings.args or ())]


def user_of(settings: Settings) -> int:
    """The uid that a worker will have; this process's where the settings name no user that there is."""
    try:
        uid = None if settings.uid is None else processes.user_number(settings.uid)
    except ConfigurationError:  # `spawn` will say it
        uid = None
    return os.geteuid() if uid is None else uid


def spawn(
    request: SpawnRequest, identity: WorkerIdentity, terms: SpawnTerms, board_fd: int, system: System
) -> Child:
    """Start a worker.

    Raises ConfigurationError for settings that can't work, OSError if the kernel refuses.
    """
    settings = request.settings
    argv = command_line(settings, system)
    credentials, user_env = processes.resolve_credentials(
        settings.uid, settings.gid, settings.groups, settings.umask
    )
    is_foreign = credentials.uid not in (None, os.geteuid())
    if is_foreign:
        credentials = msgspec.structs.replace(credentials, is_confined=True)
    _check_open(settings.pass_fds)
    if settings.serialization == "pickle" and is_foreign:
        raise ConfigurationError(
            "serialization", "pickle executes code: refused for a worker of another user"
        )
    fill_standard_streams()
    with _explained(credentials.uid if is_foreign else None), contextlib.ExitStack() as stack:
        leash = Leash()
        stack.callback(leash.close)
        keep = stack.enter_context(contextlib.ExitStack())
        channel, their_channel = _pair(keep, stack, socket.SOCK_STREAM)
        link, their_link = _pair(keep, stack, socket.SOCK_SEQPACKET)
        fds = their_channel.fileno(), their_link.fileno(), board_fd
        ticket = _ticket(identity, terms, settings.serialization, (*fds, leash.theirs))
        process = system.spawn(
            argv,
            env=_environment(settings.env, user_env, request.env, ticket),
            cwd=settings.cwd if settings.cwd is not None else role.start_directory,
            stdio=[_stream(stack, item) for item in _three_streams(settings)],
            pass_fds=(*fds, *([terms.tally] if identity.tally else []), *settings.pass_fds),
            credentials=credentials,
            new_group=terms.new_group,
            leash=leash,
            orphan_signal=signal.SIGIO if terms.orphan_grace else signal.SIGKILL,
        )
        keep.pop_all()
    channel.setblocking(False)
    link.setblocking(False)
    return Child(process, channel, link, _permits(settings.addresses) if is_foreign else None)


@contextlib.contextmanager
def _explained(uid: int | None) -> Iterator[None]:
    """Say of whom the kernel speaks, where a worker of another user is refused. None: it is not."""
    try:
        yield
    except PermissionError as error:
        if uid is None or error.errno != errno.EACCES:
            raise
        why = "may not execute it, or may not pass a folder on the way to what it links to"
        raise PermissionError(error.errno, f"{error.strerror}: uid {uid} {why}", error.filename) from None


def _ticket(
    identity: WorkerIdentity, terms: SpawnTerms, serialization: str, fds: tuple[int, int, int, int]
) -> Ticket:
    """The ticket of a worker that is about to start. `fds`: its channel, link, board and leash."""
    channel, link, board, leash = map(_named, fds)
    return Ticket(
        id=identity.id,
        slot=identity.slot,
        generation=identity.generation,
        primary=os.getpid(),
        channel=channel,
        link=link,
        board=board,
        leash=leash,
        row=identity.row,
        grace=terms.grace,
        orphan_grace=terms.orphan_grace,
        max_message=terms.max_message,
        serialization=serialization,
        ignores_interrupt=role.ignores_interrupt,
        shutdown_timeout=terms.shutdown_timeout,
        blocked=tuple(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        beat=terms.beat,
        tally=_named(terms.tally) if identity.tally else None,
        tally_slot=identity.tally,
    )


def _pair(
    keep: contextlib.ExitStack, lend: contextlib.ExitStack, kind: int
) -> tuple[socket.socket, socket.socket]:
    """Our end, which `keep` closes, and the worker's, which `lend` does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    keep.callback(ours.close)
    lend.callback(theirs.close)
    return ours, theirs


def _check_open(fds: Sequence[int]) -> None:
    for fd in fds:
        try:
            os.fstat(fd)
        except (OSError, OverflowError):
            raise ConfigurationError("pass_fds", f"descriptor {fd} is not open") from None


def _permits(addresses: Sequence[Any]) -> Permits:
    found: dict[Any, Any] = {}
    for address in addresses:
        if isinstance(address, (str, os.PathLike)):
            path = absolute_path(address)
            found[permit_of(on_the_wire(path))] = path
        else:
            found[permit_of(address, address if isinstance(address, int) else None)] = address
    found.pop(None, None)
    return found


def _named(fd: int) -> tuple[int, int]:
    return fd, os.fstat(fd).st_ino


def _environment(
    settings_env: Mapping[str, str | None],
    user_env: Mapping[str, str],
    fork_env: Mapping[str, str | None] | None,
    ticket: Ticket,
) -> dict[str, str]:
    """This process's, then the user's, then the settings', then the fork's; None removes. Then our own."""
    result: dict[str, str] = dict(os.environ)
    for layer in (user_env, settings_env, fork_env or {}):
        for name, value in layer.items():
            if value is None:
                result.pop(name, None)
            else:
                result[name] = value
    result |= {
        WORKER_ID_VARIABLE: str(ticket.id),
        SLOT_VARIABLE: str(ticket.slot),
        GENERATION_VARIABLE: str(ticket.generation),
    }
    result[role.VARIABLE] = msgspec.json.encode(ticket).decode()
    return result


def _three_streams(settings: Settings) -> Sequence[Any]:
    stdio = settings.stdio
    streams = stdio if isinstance(stdio, (list, tuple)) else [stdio] * 3
    return [streams[0], "pipe", "pipe"] if settings.silent else streams


def _stream(stack: contextlib.ExitStack, item: Any) -> Any:
    """What `subprocess` wants for one of the three."""
    match item:
        case "inherit" | None:
            return None
        case "pipe":
            return subprocess.PIPE
        case "null":
            return subprocess.DEVNULL
        case str() | os.PathLike():
            return _append_to(stack, item)
        case _:
            return item


def _append_to(stack: contextlib.ExitStack, path: str | os.PathLike[str]) -> int:
    """A descriptor within `stack`. Raises OSError: a FIFO that nobody reads is ENXIO, for we can't wait."""
    fd = os.open(path, APPENDING, 0o666)
    stack.callback(os.close, fd)
    os.set_blocking(fd, True)  # for the worker
    return fd
