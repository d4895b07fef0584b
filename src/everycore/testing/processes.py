"""An operating system without processes: the test decides how each of them ends.

Invariant: the primary's side of a process is real (a channel, a link, a board, and an eventfd(2) that plays
the pidfd). So the primary's own code runs unchanged, and sees everything in the order of epoll(7). A process
that has ended leaves nothing open.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Final

import msgspec

from everycore.foreign.signal_internals import signal_of
from everycore.model import ExitStatus
from everycore.role import VARIABLE
from everycore.system.activity import Activity
from everycore.system.leash import Leash
from everycore.system.processes import Credentials, Spawned
from everycore.testing.clock import VirtualTimeLoop
from everycore.ticket import Ticket

#: The first pid. Linux never assigns one so high (proc(5), pid_max), so no signal can reach a real process.
_FIRST_PID: Final = 5_000_000
_numbers = itertools.count(_FIRST_PID)


class Birth(msgspec.Struct, frozen=True):
    """How a process was started. `env` does not contain everycore's own variable.

    cwd: its working directory; None stands for the primary's.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None
    credentials: Credentials
    new_group: bool


class FakeProcess:
    """A process that does not exist, from its own side.

    `channel` and `link` are its ends of these. `pipes` are its ends of the standard streams that are pipes.
    """

    def __init__(self, birth: Birth, ticket: Ticket, pipes: tuple[IO[bytes] | None, ...]) -> None:
        self.pid = next(_numbers)
        self.birth = birth
        self.ticket = ticket
        self.pipes = pipes
        self.channel = socket.socket(fileno=os.dup(ticket.channel[0]))
        self.link = socket.socket(fileno=os.dup(ticket.link[0]))
        self.link.setblocking(False)
        self.status: ExitStatus | None = None
        #: The signals that the primary sent, in order.
        self.signals: list[signal.Signals] = []
        #: The signals for which the program has a handler, besides SIGTERM and SIGINT.
        self.heard: set[int] = set()
        #: What the kernel would show of the process.
        self.activity = Activity()
        #: Its memory, in bytes.
        self.memory = 0
        #: Called with each signal except SIGKILL.
        self.on_signal: Callable[[signal.Signals], object] = lambda _: None
        #: Called at the end of the process, before channel and link are closed.
        self.on_end: Callable[[], object] = lambda: None
        self._pidfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def open_pidfd(self) -> int:
        """Return a descriptor that becomes readable when the process ends, as pidfd_open(2)."""
        return os.dup(self._pidfd)

    def receive(self, number: int) -> None:
        """Receive a signal from the primary. SIGKILL ends the process."""
        named = signal_of(number)
        self.signals.append(named)
        if named == signal.SIGKILL:
            self.end(ExitStatus(signal=named))
        else:
            self.on_signal(named)

    def end(self, status: ExitStatus, *, keep_channel: bool = False) -> None:
        """End the process. `keep_channel`: a fork of it holds channel and link until `close`."""
        if self.status is not None:
            raise RuntimeError(f"process {self.pid} has ended already: {self.status}")
        self.status = status
        self.on_end()
        if not keep_channel:
            self.close()
        for pipe in self.pipes:
            if pipe is not None:
                pipe.close()
        os.eventfd_write(self._pidfd, 1)
        os.close(self._pidfd)

    def close(self) -> None:
        """Close channel and link."""
        self.channel.close()
        self.link.close()


class FakeSystem:
    """A primary's operating system, as `everycore.system.seam.System`. `on_spawn` gets every process."""

    #: A fake process imports nothing, so molds are of no use.
    has_molds = False

    def __init__(self, on_spawn: Callable[[FakeProcess], None]) -> None:
        self._on_spawn = on_spawn
        #: The errors that the next spawns raise, in order.
        self.refusals: list[OSError] = []
        self._by_pidfd: dict[int, FakeProcess] = {}

    def own_command(self, exec_argv: Sequence[str] | None, args: Sequence[str] | None) -> list[str]:
        """Return a command line like this process's. It is never run, so a test runner's will do."""
        return [sys.executable, *(exec_argv or ()), sys.argv[0], *(sys.argv[1:] if args is None else args)]

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | os.PathLike[str] | None,
        stdio: Sequence[Any],
        pass_fds: Sequence[int],
        credentials: Credentials,
        new_group: bool,
        leash: Leash | None = None,
        orphan_signal: int = signal.SIGKILL,
    ) -> Spawned:
        """Make a process. Raises the next of `refusals`. The leash is ignored: it ends with this process."""
        if self.refusals:
            raise self.refusals.pop(0)
        rest = dict(env)
        ticket = msgspec.json.decode(rest.pop(VARIABLE), type=Ticket)
        ours, theirs = zip(*(_pipe(item, number) for number, item in enumerate(stdio)), strict=True)
        birth = Birth(tuple(argv), rest, None if cwd is None else os.fspath(cwd), credentials, new_group)
        process = FakeProcess(birth, ticket, theirs)
        pidfd = process.open_pidfd()
        self._by_pidfd[pidfd] = process
        self._on_spawn(process)
        return Spawned(process.pid, pidfd, ours)

    def reap(self, pidfd: int, *, group: int = 0) -> ExitStatus | None:
        """Return how the process ended, or None while it runs. Its group has no other member."""
        status = self._by_pidfd[pidfd].status
        if status is not None:
            del self._by_pidfd[pidfd]
        return status

    def send_signal(self, pidfd: int, number: int, *, group: int = 0) -> bool:
        """Deliver the signal. Returns False if the process has ended. Its group has no other member."""
        process = self._by_pidfd[pidfd]
        if process.status is not None:
            return False
        if number:  # signal 0 only asks whether the process exists (kill(2))
            process.receive(number)
        return True

    def hears(self, pid: int, number: int) -> bool:
        """Whether the process has a handler for that signal, according to `FakeProcess.heard`."""
        return any(process.pid == pid and number in process.heard for process in self._by_pidfd.values())

    def activity(self, pid: int) -> Activity | None:
        """Return `FakeProcess.activity`."""
        return next((one.activity for one in self._by_pidfd.values() if one.pid == pid), None)

    def memory(self, pid: int, limit: int) -> int | None:
        """Return `FakeProcess.memory`."""
        return next((one.memory for one in self._by_pidfd.values() if one.pid == pid), None)

    def now(self) -> float:
        """Return the date, in seconds since the epoch: the running loop's, if it has one of its own."""
        loop = asyncio.get_running_loop()
        return loop.date if isinstance(loop, VirtualTimeLoop) else time.time()


def _pipe(item: Any, number: int) -> tuple[IO[bytes] | None, IO[bytes] | None]:
    """The primary's end and the process's end of standard stream `number`, if that is to be a pipe."""
    if item != subprocess.PIPE:
        return None, None
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)  # both ends are in one process: neither may wait for the other
    reader, writer = os.fdopen(read, "rb", buffering=0), os.fdopen(write, "wb", buffering=0)
    return (writer, reader) if number == 0 else (reader, writer)
