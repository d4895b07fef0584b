"""From settings to a running process.

This puts together the command line, environment, standard streams, identity and descriptors of one worker.
Invariant: a failed spawn leaves nothing behind. When to spawn is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from everycore import role
from everycore.core.permits import Permits, permit_of
from everycore.errors import ConfigurationError
from everycore.model import WorkerIdentity
from everycore.primary.outfit import Outfit
from everycore.settings import Settings
from everycore.system import processes
from everycore.system.descriptors import fill_standard_streams
from everycore.system.seam import System
from everycore.system.sockets import absolute_path, on_the_wire
from everycore.ticket import Ticket

#: For programs that do not import everycore: the worker's id, its slot and its generation.
WORKER_ID_VARIABLE: Final = "EVERYCORE_WORKER_ID"
SLOT_VARIABLE: Final = "EVERYCORE_SLOT"
GENERATION_VARIABLE: Final = "EVERYCORE_GENERATION"


class SpawnTerms(msgspec.Struct, frozen=True):
    """What every worker of a cluster is told. Times are in seconds; `beat` as in the `Ticket`.

    least_beat: the `beat` if nothing watches for stalls. tally: the memory file for the workers' own metrics;
    -1 without one. has_launcher: each worker begins with everycore's own launcher, and serves nobody before
    that has joined.
    """

    grace: float
    orphan_grace: float
    max_message: int
    new_group: bool
    shutdown_timeout: float = 0.0
    beat: float = 0.0
    least_beat: float = 0.0
    tally: int = -1
    has_launcher: bool = False


class SpawnRequest(msgspec.Struct, frozen=True):
    """What is asked of one fork.

    env: additions to the worker's environment; None removes a variable. slot: None stands for the lowest free
    one. raises: raise for a setting that cannot work; else it becomes the worker's exit.
    """

    settings: Settings
    env: Mapping[str, str | None] | None = None
    slot: int | None = None
    generation: int = 0
    raises: bool = True


class Child(msgspec.Struct, frozen=True):
    """A worker and the primary's ends of its pipes. process: None until its mold has made it.

    `permits`: what it may listen on, if it runs as another user than the primary. None: no limit of its own.
    """

    process: processes.Spawned | None
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
    """The uid that a worker will have; this process's if the settings name no existing user."""
    try:
        uid = None if settings.uid is None else processes.user_number(settings.uid)
    except ConfigurationError:  # `spawn` will raise it
        uid = None
    return os.geteuid() if uid is None else uid


def spawn(birth: Outfit, system: System) -> Child:
    """Start a worker as a fresh interpreter. Raises OSError if the kernel refuses."""
    try:
        process = spawn_fresh(birth, system)
    except BaseException:
        birth.abandon()
        raise
    birth.close()
    return Child(process, birth.channel, birth.link, birth.permits)


def spawn_fresh(birth: Outfit, system: System) -> processes.Spawned:
    """Start the worker as a fresh interpreter. Raises OSError if the kernel refuses."""
    with _explained(birth.credentials.uid if birth.permits is not None else None):
        return birth.spawn(system)


def conceive(
    request: SpawnRequest, identity: WorkerIdentity, terms: SpawnTerms, board_fd: int, system: System
) -> Outfit:
    """Everything that a worker is to be started with.

    Raises ConfigurationError for settings that cannot work, OSError if the kernel refuses.
    """
    settings = request.settings
    argv = command_line(settings, system)
    credentials, user_env = credentials_of(settings)
    _check_open(settings.pass_fds)
    if settings.serialization == "pickle" and credentials.is_confined:
        raise ConfigurationError(
            "serialization", "pickle executes code: refused for a worker of another user"
        )
    fill_standard_streams()
    birth = Outfit(argv, credentials)
    try:
        birth.board = board_fd
        birth.tally = terms.tally if identity.tally else -1
        channel, link, board = birth.fds[:3]
        fds = channel, link, board, birth.leash.theirs
        birth.ticket = _ticket(identity, terms, settings.serialization, fds)
        birth.env = worker_environment(settings, user_env, request.env, birth.ticket)
        birth.cwd = folder_of(settings)
        birth.stdio = [birth.stream(item) for item in three_streams(settings)]
        birth.pass_fds = settings.pass_fds
        birth.new_group = terms.new_group
        birth.orphan_signal = signal.SIGIO if terms.orphan_grace else signal.SIGKILL
        birth.permits = _permits(settings.addresses) if credentials.is_confined else None
    except BaseException:
        birth.abandon()
        raise
    return birth


def credentials_of(settings: Settings) -> tuple[processes.Credentials, dict[str, str]]:
    """The user that workers become, and the variables that go with it. Raises ConfigurationError."""
    credentials, user_env = processes.resolve_credentials(
        settings.uid, settings.gid, settings.groups, settings.umask
    )
    if credentials.uid not in (None, os.geteuid()):
        credentials = msgspec.structs.replace(credentials, is_confined=True)
    return credentials, user_env


def folder_of(settings: Settings) -> str | os.PathLike[str] | None:
    """The folder in which workers start; None stands for the primary's."""
    return settings.cwd if settings.cwd is not None else role.start_directory


@contextlib.contextmanager
def _explained(uid: int | None) -> Iterator[None]:
    """Name the user in the error if a worker of another user is refused. None: the user is the same."""
    try:
        yield
    except PermissionError as error:
        if uid is None or error.errno != errno.EACCES:
            raise
        why = "may not execute it, or may not enter a folder on the path to what it links to"
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


def environment(
    settings: Settings, user_env: Mapping[str, str], fork_env: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """This process's environment, then the user's, the settings' and the fork's. None removes a variable."""
    result: dict[str, str] = dict(os.environ)
    for layer in (user_env, settings.env, fork_env or {}):
        for name, value in layer.items():
            if value is None:
                result.pop(name, None)
            else:
                result[name] = value
    return result


def worker_environment(
    settings: Settings,
    user_env: Mapping[str, str],
    fork_env: Mapping[str, str | None] | None,
    ticket: Ticket,
) -> dict[str, str]:
    """The `environment` of one worker, with the variables that identify it."""
    return environment(settings, user_env, fork_env) | {
        WORKER_ID_VARIABLE: str(ticket.id),
        SLOT_VARIABLE: str(ticket.slot),
        GENERATION_VARIABLE: str(ticket.generation),
    }


def three_streams(settings: Settings) -> Sequence[Any]:
    """The standard streams, as the settings have them."""
    stdio = settings.stdio
    streams = stdio if isinstance(stdio, (list, tuple)) else [stdio] * 3
    return [streams[0], "pipe", "pipe"] if settings.silent else streams
