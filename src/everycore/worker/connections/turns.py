"""The turns of a uvloop loop: before the loop waits, the board is told so, and some objects look around.

That costs 2 to 4 us a turn, where a cheap connection costs 60. So while a loop accepts one cheap connection
after another, a sample of the turns has to do. In between, the board says that the loop waits. If a handler
then blocks, the worker looks free meanwhile, as one that was stopped does: the others leave connections to
it, see that it takes none, and take them (`core.patience`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from everycore.core.lanes import COSTLY

if TYPE_CHECKING:
    from everycore.system.board import WorkerBoard

#: Connections with which each turn is told, and the following ones with which none is.
TOLD: Final = 32
UNTOLD: Final = 256
#: A loop is hot if connections come more often than this, and turns are left out for this long at most, in
#: seconds.
HOT: Final = 0.003
LONGEST_PAUSE: Final = 0.1
#: While connections end as fast as they come, the numbers that workers hold are level by themselves. To go to
#: the end of the queue for a difference of one would cost 10 us a connection (measured): workers wake each
#: other in turn, and each finds a single connection.
SLACK: Final = 8


class Turns:
    """The turns of one loop. `close` comes before the loop's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, board: WorkerBoard) -> None:
        from everycore.foreign import uvloop_internals  # there are such loops, so there is uvloop

        self._loop = loop
        self._board = board
        self._looks: list[Callable[[], None]] = []
        self._closers: list[Callable[[], None]] = []
        self._is_paused = self._is_closed = False
        #: Connections until `step` is to be called. Whoever accepts one counts down.
        self.left = self._step = 1
        #: By how many connections others may hold fewer, and the next one be for this worker too.
        self.slack = 0
        #: When the current step began, and how many connections were held then.
        self._since = 0.0
        self._held = 0
        self._resuming: asyncio.TimerHandle | None = None
        self._stamps = uvloop_internals.stamps_of(loop, self._note)

    def watch(self, look: Callable[[], None], close: Callable[[], None]) -> None:
        """Call `look` in each turn that is told, before the loop waits, and `close` before the loop's own."""
        self._looks.append(look)
        self._closers.append(close)

    def unwatch(self, look: Callable[[], None], close: Callable[[], None]) -> None:
        """Call them no more."""
        self._looks.remove(look)
        self._closers.remove(close)

    def _note(self, waits: bool, since: float | None = None) -> None:
        if waits:
            for look in tuple(self._looks):
                look()
        self._board.idle(waits, since)

    def step(self, most: int) -> None:
        """`left` is 0: look how the connections come. `most`: after how many of them to call this again."""
        now = time.monotonic()
        is_hot = now - self._since < self._step * HOT and self._board.cost < COSTLY / 2
        grown = self._board.held - self._held
        if self._step >= TOLD // 2:  # of fewer there is nothing to be learnt
            self.slack = SLACK if is_hot and grown < self._step // 2 else 0
        # With several servers, one of them may have to hear of each turn.
        if is_hot and not self._is_paused and self._stamps is not None and len(self._looks) == 1:
            self._is_paused = True
            self._stamps.pause()
            self._board.measure(False)
            self._resuming = self._loop.call_later(LONGEST_PAUSE, self.resume)
            self._begin(min(UNTOLD, most), now)
        else:
            self.resume()
            self._begin(min(TOLD, most), now)

    def _begin(self, left: int, now: float) -> None:
        self.left = self._step = left
        self._since = now
        self._held = self._board.held

    def resume(self) -> None:
        """Tell each turn again."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        if self._stamps is not None:
            self._stamps.resume()
        self._board.measure(True)
        self._begin(min(TOLD, max(self.left, 1)), time.monotonic())

    def close(self) -> None:
        """Tell nothing more. Keep this object for one more turn of the loop, as `Stamps.close` says."""
        self.resume()
        if self._stamps is not None and not self._is_closed:
            self._is_closed = True
            for close in tuple(self._closers):
                close()
            self._stamps.close()
