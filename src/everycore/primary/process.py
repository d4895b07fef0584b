"""One worker's process: its pid, its signals, its end and its standard streams.

Invariant: the process is reaped exactly once, and its pidfd is closed then. A signal never reaches another
process.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from everycore.aio.pipes import PipeReader, PipeWriter
from everycore.model import ExitStatus
from everycore.system.activity import Activity
from everycore.system.descriptors import close_all
from everycore.system.processes import Spawned
from everycore.system.seam import System


class WorkerProcess:
    """The process of a worker. Without `spawned` it never started, or does not exist yet.

    withdraw: cancels a worker whose process does not exist yet.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        system: System,
        spawned: Spawned | None = None,
        *,
        leads_group: bool = False,
        withdraw: Callable[[], object] | None = None,
    ) -> None:
        #: Set while the process does not exist yet; below, the signals that it will get once it does.
        self._withdraw = withdraw
        self._signals: list[int] = []
        self._loop = loop
        self._system = system
        self._pidfd = self._leash = -1
        self._leads_group = leads_group
        self._on_exit: Callable[[ExitStatus], None]
        self.pid: int | None = None
        self.stdin: PipeWriter | None = None
        self.stdout: PipeReader | None = None
        self.stderr: PipeReader | None = None
        if spawned is not None:
            self.born(spawned)

    def born(self, spawned: Spawned) -> None:
        """Note that the process exists."""
        self._withdraw = None
        self.pid, self._pidfd, self._leash = spawned.pid, spawned.pidfd, spawned.leash
        stdin, stdout, stderr = spawned.pipes
        self.stdin = PipeWriter(self._loop, stdin) if stdin else None
        self.stdout = PipeReader(self._loop, stdout) if stdout else None
        self.stderr = PipeReader(self._loop, stderr) if stderr else None
        for number in self._signals:
            self.signal(number)

    def withdraw(self) -> None:
        """Cancel the process, if it does not exist yet."""
        if self._withdraw is not None:
            self._withdraw()

    def unborn(self) -> None:
        """Note that the process will never exist."""
        self._withdraw = None

    def watch(self, on_exit: Callable[[ExitStatus], None]) -> None:
        """Reap the process when it ends, and then call `on_exit`."""
        self._on_exit = on_exit
        self._loop.add_reader(self._pidfd, self._on_readable)

    def _on_readable(self) -> None:
        status = self._system.reap(self._pidfd, group=self._group)
        if status is not None:
            self._loop.remove_reader(self._pidfd)
            self._close_fds()
            self._on_exit(status)

    def _close_fds(self) -> None:
        fds = [fd for fd in (self._pidfd, self._leash) if fd >= 0]
        self._pidfd = self._leash = -1
        close_all(fds)

    def signal(self, number: int) -> bool:
        """Signal the process; False if it is gone. One that does not exist yet gets the signal later."""
        if self._withdraw is not None:
            self._signals.append(number)
            if number in (signal.SIGTERM, signal.SIGKILL):
                self.withdraw()
            return True
        return self._pidfd >= 0 and self._system.send_signal(self._pidfd, number)

    def signal_group(self, number: int) -> None:
        """Signal the process and, if it leads a process group, the whole group."""
        if self._withdraw is not None:
            self.signal(number)
        elif self._pidfd >= 0:
            self._system.send_signal(self._pidfd, number, group=self._group)

    def hears(self, number: int) -> bool:
        """Whether the process has a handler for that signal."""
        return self.pid is not None and self._pidfd >= 0 and self._system.hears(self.pid, number)

    def activity(self) -> Activity | None:
        """What the process has done and waited for; None if nothing can be seen."""
        return None if self.pid is None or self._pidfd < 0 else self._system.activity(self.pid)

    def memory(self, limit: int) -> int | None:
        """The memory of the process in bytes, exact above `limit`; None if it cannot be read."""
        is_there = self.pid is not None and self._pidfd >= 0
        return self._system.memory(self.pid, limit) if is_there and self.pid is not None else None

    @property
    def _group(self) -> int:
        """The process group that the process leads; 0 if none."""
        return self.pid if self._leads_group and self.pid is not None else 0

    def abort_stdin(self) -> None:
        """After the end: drop what was written, since nothing reads it any more."""
        if self.stdin is not None:
            self.stdin.abort()

    @property
    def is_closed(self) -> bool:
        """Whether the streams of a dead worker are read to their end, or closed."""
        return all(pipe is None or pipe.at_eof() for pipe in (self.stdout, self.stderr))

    def close(self) -> None:
        """After the end: close the streams that were not read to their end."""
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()

    def abandon(self) -> None:
        """In a forked child: close the child's copies, and leave the parent's loop alone."""
        self._close_fds()

    def fileno(self) -> int:
        """The descriptor of the pidfd, or -1."""
        return self._pidfd
