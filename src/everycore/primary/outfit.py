"""Everything that a worker is started with, held open until the worker has it.

A fresh interpreter gets it by exec, a worker from a mold by a message. Invariant: what is lent to the worker
is closed here exactly once, however the start ends. The primary's ends belong to the caller.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final, Protocol

import msgspec

from everycore import role
from everycore.core.permits import Permits
from everycore.system.leash import Leash
from everycore.system.plain_files import APPENDING
from everycore.system.processes import Credentials, Spawned
from everycore.system.seam import System
from everycore.ticket import Ticket

#: The primary's ends of a worker's standard streams that are pipes.
Pipes = tuple[IO[bytes] | None, IO[bytes] | None, IO[bytes] | None]

_NO_PIPES: Final[Pipes] = (None, None, None)


class Outfit:
    """What one worker is started with. `channel` and `link` are the primary's ends.

    argv: the program. env: without the ticket. cwd: None stands for the primary's. stdio: as `subprocess`
    takes them.
    """

    def __init__(self, settings_argv: Sequence[str], credentials: Credentials) -> None:
        self.argv = settings_argv
        self.credentials = credentials
        self._lent = contextlib.ExitStack()
        self._ours = contextlib.ExitStack()
        self.channel, self._their_channel = self._pair(socket.SOCK_STREAM)
        self.link, self._their_link = self._pair(socket.SOCK_SEQPACKET)
        try:
            self.leash = Leash()
        except OSError:
            self.abandon()
            raise
        self._lent.callback(self.leash.close)
        self.env: Mapping[str, str]
        self.cwd: str | os.PathLike[str] | None = None
        self.stdio: Sequence[Any]
        self.pass_fds: Sequence[int] = ()
        self.new_group = False
        self.orphan_signal: int = signal.SIGKILL
        self.ticket: Ticket
        self.board = self.tally = -1
        self.permits: Permits | None = None
        self.pipes = _NO_PIPES
        self._streams: list[int] = []

    def _pair(self, kind: int) -> tuple[socket.socket, socket.socket]:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        except OSError:
            self.abandon()
            raise
        ours.setblocking(False)
        self._ours.callback(ours.close)
        self._lent.callback(theirs.close)
        return ours, theirs

    @property
    def fds(self) -> tuple[int, ...]:
        """The worker's channel, its link and the board; also the tally, if the worker has a slot there."""
        fds = self._their_channel.fileno(), self._their_link.fileno(), self.board
        return fds if self.tally < 0 else (*fds, self.tally)

    def stream(self, item: Any) -> Any:
        """What `subprocess` takes for one of the three standard streams, as the settings have it.

        Raises OSError. A FIFO without a reader is ENXIO, since the primary can't wait.
        """
        match item:
            case "inherit" | None:
                return None
            case "pipe":
                return subprocess.PIPE
            case "null":
                return subprocess.DEVNULL
            case str() | os.PathLike():
                fd = self._lend(os.open(item, APPENDING, 0o666))
                os.set_blocking(fd, True)  # for the worker
                return fd
            case _:
                return item

    def _lend(self, fd: int) -> int:
        self._lent.callback(os.close, fd)
        return fd

    def open_streams(self) -> list[int]:
        """Open descriptors for the three standard streams: a message can carry nothing else."""
        if self._streams:
            return self._streams
        fds = self._streams
        pipes: list[IO[bytes] | None] = []
        for number, item in enumerate(self.stdio):
            pipe = None
            if item is None:
                fds.append(number)
            elif item == subprocess.DEVNULL:
                fds.append(self._lend(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)))
            elif item == subprocess.PIPE:
                read, write = os.pipe2(os.O_CLOEXEC)
                ours, theirs = (write, read) if number == 0 else (read, write)
                fds.append(self._lend(theirs))
                pipe = os.fdopen(ours, "wb" if number == 0 else "rb", buffering=0)
                self._ours.callback(pipe.close)
            else:
                fds.append(item if isinstance(item, int) else item.fileno())
            pipes.append(pipe)
        self.stdio = fds
        self.pipes = pipes[0], pipes[1], pipes[2]
        return fds

    def spawn(self, system: System) -> Spawned:
        """Start a fresh interpreter. If this raises OSError, only this object is left of it."""
        spawned = system.spawn(
            self.argv,
            env={**self.env, role.VARIABLE: msgspec.json.encode(self.ticket).decode()},
            cwd=self.cwd,
            stdio=self.stdio,
            pass_fds=(*self.fds, *self.pass_fds),
            credentials=self.credentials,
            new_group=self.new_group,
            leash=self.leash,
            orphan_signal=self.orphan_signal,
        )
        if self.pipes == _NO_PIPES:
            self.pipes = spawned.pipes
        return msgspec.structs.replace(spawned, pipes=self.pipes)

    def close(self) -> None:
        """Close what was lent: the worker has it, or never will. The primary's ends are in use."""
        self._ours.pop_all()
        self._lent.close()

    def fail(self) -> None:
        """Close what was lent and the pipes: the worker failed. Its driver has the channel and the link."""
        for pipe in self.pipes:
            if pipe is not None:
                pipe.close()
        self.close()

    def abandon(self) -> None:
        """Close everything: there is no worker, and nothing uses the primary's ends."""
        self._lent.close()
        self._ours.close()


class Awaiting(Protocol):
    """Waits for a worker's process: the driver does."""

    @property
    def id(self) -> int:
        """The worker's number."""

    def on_born(self, spawned: Spawned) -> None:
        """Note that the worker's process exists."""

    def on_unborn(self, error: OSError) -> None:
        """Note that the worker's process will never exist."""
