"""A worker that outlives its primary for a while (`orphan_grace`).

It may finish, whatever its program is (our loop, another one, threads, none), and is ended when the time is
over, even if the main thread is blocked, as long as Python runs there now and then.

The kernel sends SIGIO when the primary is gone (`system.leash`). A loop of ours learns the same from the
channel, and departs by itself; every other program is asked as the primary asks it, by SIGTERM.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Final

from everycore.held_signals import start_helper
from everycore.system import forked_signals, inherited

#: A loop that departs has so long, after the grace, to end by itself. Seconds.
LAST_STEPS: Final = 2.0
#: Within less than this, a loop that is busy cannot be told from one that is blocked. Seconds.
LEAST: Final = 1.0

# As it was before gevent replaced it.
_sleep: Final = time.sleep


class Orphan:
    """What this process does about the end of its primary. `grace` in seconds."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._has_helper = False
        #: A loop of ours reads the channel.
        self.is_read = False
        #: That loop has learned that the primary is gone.
        self.is_leaving = False

    def install(self) -> None:
        """Be prepared. A worker that has not come as far as this dies by SIGIO: it serves nobody yet."""
        forked_signals.handle_unused(signal.SIGIO, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal has come."""
        if not self._has_helper:
            self._has_helper = True
            if not start_helper(self._see_off):
                self._end_by_alarm()

    def _end_by_alarm(self) -> None:
        """Let the kernel end this process when the time is over: SIGALRM with its default action."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        inherited.hear((signal.SIGALRM,))
        signal.setitimer(signal.ITIMER_REAL, max(self._grace, LEAST) + LAST_STEPS)
        self._ask()

    def _ask(self) -> None:
        if not self.is_read:
            os.kill(os.getpid(), signal.SIGTERM)

    def _see_off(self) -> None:
        self._ask()
        _sleep(max(self._grace, LEAST))
        if self.is_leaving:
            _sleep(LAST_STEPS)
        if inherited.is_group_leader():
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
