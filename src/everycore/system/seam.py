"""What a primary asks of the operating system about its workers, as one small interface.

Another implementation may take its place: `everycore.testing` has one. Invariant: the code that drives
workers starts, signals and reaps them, and learns the date, through a `System` alone. Its event loop tells it
how long things take.
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
    """An operating system, as far as workers are concerned."""

    has_molds: bool
    """Whether workers can be forked from a mold."""

    def own_command(self, exec_argv: Sequence[str] | None, args: Sequence[str] | None) -> list[str]:
        """Return this process's command line again. Raises ConfigurationError if that is impossible."""

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
        """Start `argv`. Raises OSError if it cannot be started, and then leaves nothing behind.

        cwd: None stands for this process's working directory. leash: sends the process `orphan_signal` when
        this process ends.
        """

    def reap(self, pidfd: int, *, group: int = 0) -> ExitStatus | None:
        """Return how the process ended; None while it runs. After that the process no longer exists.

        group: the process group that the process led. If the process was killed, the rest of the group is
        killed too.
        """

    def send_signal(self, pidfd: int, number: int, *, group: int = 0) -> bool:
        """Signal the process, and `group`, the process group that it leads. Returns False if it is gone."""

    def hears(self, pid: int, number: int) -> bool:
        """Whether a process that is not reaped yet has a handler for that signal."""

    def activity(self, pid: int) -> Activity | None:
        """Examine what a process has done and waited for. Returns None if nothing can be seen."""

    def memory(self, pid: int, limit: int) -> int | None:
        """Return the bytes of a process, exact above `limit`; None if they cannot be read."""

    def now(self) -> float:
        """Return the date in seconds since the epoch, as `time.time` does."""


class Linux:
    """The real operating system."""

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
