"""When a worker that is to leave is asked to: at once, or when it has those who had come before.

The last ready worker of a listener is given those first, for a part of its grace: it needs the rest to serve
them. Invariant: while a farewell lasts the worker is `finishing` on some listener.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from everycore.primary.listeners.switchboard import Switchboard

#: The part of a worker's grace for which it is given those who had come before it was asked to leave.
FINISH_SHARE: Final = 0.5


class Farewell:
    """The farewell of one worker; `ask` asks it to leave."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        switchboard: Switchboard,
        worker: int,
        ask: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._switchboard = switchboard
        self._worker = worker
        self._ask = ask
        self._timer: asyncio.TimerHandle | None = None
        self._ends_by = math.inf
        #: The worker leaves by itself: it is not to be asked, nor kept for the sake of those who had come.
        self.is_spared = False

    def leave_rotation(self, *, finishes: bool) -> None:
        """The worker is to be given no more, but for what is left for it if it `finishes` its work."""
        self._cancel_timer()
        if finishes and not self.is_spared:
            self._switchboard.finish(self._worker)
        else:
            self._switchboard.rest(self._worker, finishes=finishes)

    def begin(self, grace: float) -> None:
        """Ask the worker, within a part of its `grace`. Again: maybe in less time than the first time."""
        self._cancel_timer()
        if self._switchboard.is_finishing(self._worker):
            self._ends_by = min(self._ends_by, self._loop.time() + grace * FINISH_SHARE)
            self._timer = self._loop.call_at(self._ends_by, self._end)
        else:
            self._ask()

    @property
    def lasts(self) -> bool:
        """Whether the worker is still to be asked."""
        return self._timer is not None

    def on_finished(self) -> None:
        """A listener has given the worker all who had come."""
        if not self._switchboard.is_finishing(self._worker):
            self._end()

    def _end(self) -> None:
        if self.cancel():
            self._ask()

    def cancel(self) -> bool:
        """The worker leaves without being asked. Returns whether it was still to be asked."""
        if not self.lasts:
            return False
        self._cancel_timer()
        self._switchboard.rest(self._worker, finishes=True)
        return True

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
