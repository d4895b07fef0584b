"""When a worker that is to leave is asked to: at once, or when it has those who had come before.

The last ready worker of a listener is given those first, for a part of its grace: it needs the rest to serve
them. Invariant: while a farewell lasts the worker is `finishing` on some listener.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from everycore.primary.listeners.switchboard import Switchboard


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

    def begin(self, seconds: float) -> None:
        """Ask the worker, within `seconds`. Again: maybe in less time than the first time."""
        self.forget()
        if self._switchboard.is_finishing(self._worker):
            self._ends_by = min(self._ends_by, self._loop.time() + seconds)
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
        self.forget()
        self._switchboard.rest(self._worker, finishes=True)
        return True

    def forget(self) -> None:
        """As `cancel`, of a worker whose listeners are told by somebody else."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
