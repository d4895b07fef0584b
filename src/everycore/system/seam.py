"""What a primary asks of the operating system about its workers, as one small interface.

Let something else stand in its place: `everycore.testing` does. Invariant: who drives workers starts, signals
and reaps them, and learns the date, through a `System` alone; how long things take it is told by its event
loop.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Protocol

from everycore.model import ExitStatus
from everycore.system import processes
from everycore.system.activity import Activity, activity
from everycore.system.leash import Leash
from everycore.system.memory import memory
from everycore.system.processes import Credentials, Spawned


class System(Protocol):
    """An operating system, as far as workers go."""

    has_molds: bool
    """Whether workers can be forked from a mold."""

    def own_command(self, exec_argv: Sequence[str] | None, args: Sequence[str] | None) -> list[str]:
        """Return this process's command line again. Raises ConfigurationError where there is none."""

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
        """Start `argv`. Raises OSError if it cannot be started; then nothing is left behind.

        cwd: None is where this process is. leash: what sends it `orphan_signal` when this process ends.
        """

    def reap(self, pidfd: int, *, group: int = 0) -> ExitStatus | None:
        """Return how the process ended; None while it runs. Once: afterwards there is no such process.

        group: the process group that it led: if it was killed, what is left of that is killed too.
        """

    def send_signal(self, pidfd: int, number: int, *, group: int = 0) -> bool:
        """Signal the process; False if it is gone. group: the process group that it leads gets it too."""

    def hears(self, pid: int, number: int) -> bool:
        """Whether a process that was not reaped yet has a handler for that signal."""

    def activity(self, pid: int) -> Activity | None:
        """Look at what a process has done and waited for; None where there is nothing to see."""

    def memory(self, pid: int, limit: int) -> int | None:
        """Return the bytes of a process, exactly where they are above `limit`; None where nothing is told."""

    def now(self) -> float:
        """Return the date, in seconds since the epoch, as `time.time` does."""


class Linux:
    """The real one."""

    has_molds = True
    own_command = staticmethod(processes.own_command)
    spawn = staticmethod(processes.spawn)
    reap = staticmethod(processes.reap)
    send_signal = staticmethod(processes.send_signal)
    hears = staticmethod(processes.hears)
    activity = staticmethod(activity)
    memory = staticmethod(memory)
    now = staticmethod(time.time)


#: The system of a cluster that is opened now, in this context.
current: Final[ContextVar[System]] = ContextVar("everycore_system", default=Linux())  # noqa: B039 - no state
