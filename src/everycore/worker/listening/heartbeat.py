"""The beats of the event loop that reads the channel. They show the primary that this worker makes progress.

The loop counts on the board, often enough that the primary sees a new number at every check. Invariant: a
loop that does not turn does not beat. Where nothing counts, the board says 0, and the primary judges this
worker by the connections that it picks up.

A turning loop does not prove progress: the threads of a WSGI application may be stuck behind it. So an engine
that serves by threads can hold the beats back (`hold_while`). While a debugger is at work nothing is counted:
the worker stands still on purpose.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everycore.system.board import WorkerBoard


class Heartbeat:
    """The beats of one worker. `interval`: seconds between two beats; 0, if the primary watches no worker."""

    def __init__(self, board: WorkerBoard, interval: float) -> None:
        self._board = board
        self._interval = interval
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_stuck: Callable[[], bool] | None = None
        #: The time of the last beat, by time.monotonic(), and the processor time of this thread by then.
        self._beaten = self._had = 0.0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Beat as long as `loop` turns. To be called in the loop's thread."""
        if self._interval and self._loop is None:
            self._loop = loop
            self._beaten, self._had = time.monotonic(), time.thread_time()
            self._beat()

    def end(self, loop: object = None) -> None:
        """Stop beating: `loop`, or whichever loop beats, does not run any more."""
        if self._loop is None or loop not in (None, self._loop):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None
        self._board.end_beats()

    def hold_while(self, is_stuck: Callable[[], bool]) -> None:
        """Do not beat while `is_stuck()` returns true, that is, while the work behind the loop is stuck.

        It is called at each beat.
        """
        self._is_stuck = is_stuck

    def _beat(self) -> None:
        if self._loop is None:
            return
        if is_debugged():
            self._board.end_beats()
        else:
            self._tell_times()
            if self._is_stuck is None or not self._is_stuck():
                self._board.beat()
        self._timer = self._loop.call_later(self._interval, self._beat)

    def _tell_times(self) -> None:
        """Report how the loop has fared since the last beat. It was busy while it computed or was late.

        A loop that waits in a blocking call does not compute, but is late. The longer of the two counts.
        """
        now, has = time.monotonic(), time.thread_time()
        passed, computed = now - self._beaten, has - self._had
        self._beaten, self._had = now, has
        late = max(passed - self._interval, 0.0)
        self._board.fared(min(max(computed, late), passed), late)


def is_debugged() -> bool:
    """Whether a debugger, or another tool that traces like one, is at work in this thread."""
    monitoring: Any = getattr(sys, "monitoring", None)  # Python 3.12
    return sys.gettrace() is not None or (
        monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None
    )
