"""A worker that outlives its primary for a while (`orphan_grace`).

The worker may finish its work, whatever its program uses (everycore's event loop, another loop, threads or
none). When the time is over it is ended, even if the main thread is blocked, as long as Python gets to run
there now and then.

The kernel sends SIGIO when the primary is gone (`system.leash`). A loop of everycore learns the same from the
channel, and leaves by itself. Every other program is asked as the primary would ask it, by SIGTERM.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Final

from everycore.held_signals import start_helper
from everycore.system import forked_signals, inherited

#: How long a leaving loop has after the grace to end by itself, in seconds.
LAST_STEPS: Final = 2.0
#: In less time than this, a busy loop cannot be told from a blocked one. In seconds.
LEAST: Final = 1.0

# The original, from before gevent replaced it.
_sleep: Final = time.sleep


class Orphan:
    """How this process reacts to the end of its primary. `grace` is in seconds."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._has_helper = False
        #: Whether a loop of everycore reads the channel.
        self.is_read = False
        #: Whether that loop has learned that the primary is gone.
        self.is_leaving = False

    def install(self) -> None:
        """Install the handler. A worker that has not come this far dies by SIGIO: it serves no one yet."""
        forked_signals.handle_unused(signal.SIGIO, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGIO."""
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
