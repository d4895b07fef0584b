"""The turns of a uvloop loop: before the loop waits, the board is updated and some objects check their state.

That costs 2 to 4 us a turn, where a cheap connection costs 60. So while a loop accepts one cheap connection
after another, only a sample of the turns is reported. In between, the board says that the loop waits. If a
handler then blocks, the worker looks free, like one that was stopped: the others leave connections to it,
notice that it takes none, and take them (`core.patience`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from everycore.core.pace import LOOK, Pace

if TYPE_CHECKING:
    from everycore.system.board import WorkerBoard

#: While connections come fast, `TOLD` turns are reported and the next `UNTOLD` ones are not.
TOLD: Final = LOOK
UNTOLD: Final = 256
#: The longest time without a report, in seconds.
LONGEST_PAUSE: Final = 0.1


class Turns:
    """The turns of one loop. `close` comes before the loop's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, board: WorkerBoard) -> None:
        from everycore.foreign import uvloop_internals  # there are such loops, so there is uvloop

        self._loop = loop
        self._board = board
        self._looks: list[Callable[[], None]] = []
        self._closers: list[Callable[[], None]] = []
        self._is_paused = self._is_closed = False
        self.pace = Pace()
        self._resuming: asyncio.TimerHandle | None = None
        self._stamps = uvloop_internals.stamps_of(loop, self._note)

    def watch(self, look: Callable[[], None], close: Callable[[], None]) -> None:
        """Call `look` before the loop waits in each reported turn, and `close` before the loop's own."""
        self._looks.append(look)
        self._closers.append(close)

    def unwatch(self, look: Callable[[], None], close: Callable[[], None]) -> None:
        """No longer call them."""
        self._looks.remove(look)
        self._closers.remove(close)

    def _note(self, waits: bool, since: float | None = None) -> None:
        if waits:
            for look in tuple(self._looks):
                look()
        self._board.idle(waits, since)

    def step(self, most: int) -> None:
        """Called when `pace.left` is 0. `most`: after how many connections to call this again."""
        now, pace, board = time.monotonic(), self.pace, self._board
        pace.look(now, board.held, board.cost)
        # With several servers, one of them may need a report of each turn.
        if pace.is_fast and not self._is_paused and self._stamps is not None and len(self._looks) == 1:
            self._is_paused = True
            self._stamps.pause()
            board.measure(False)
            self._resuming = self._loop.call_later(LONGEST_PAUSE, self.resume)
            pace.begin(min(UNTOLD, most), now, board.held)
        else:
            self.resume()
            pace.begin(min(TOLD, most), now, board.held)

    def resume(self) -> None:
        """Report each turn again."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        if self._stamps is not None:
            self._stamps.resume()
        self._board.measure(True)
        self.pace.begin(min(TOLD, max(self.pace.left, 1)), time.monotonic(), self._board.held)

    def close(self) -> None:
        """Report no more turns. Keep this object for one more turn of the loop, as `Stamps.close` demands."""
        self.resume()
        if self._stamps is not None and not self._is_closed:
            self._is_closed = True
            for close in tuple(self._closers):
                close()
            self._stamps.close()
