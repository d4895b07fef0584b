"""When a worker is asked to leave: at once, or once it has got the connections that had come before.

The last ready worker of a listener first gets those connections, for a part of its grace: it needs the rest
to serve them. A program that is asked by a signal closes a connection whose first request it has not read
(uvicorn, aiohttp, hypercorn do), so its clients have a moment to send one. Invariant: while a farewell lasts,
the worker is `finishing` on some listener, or has connections of which it may have read nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from everycore.aio.deadline import Deadline
from everycore.primary.listeners.switchboard import Switchboard

#: The part of a worker's grace in which it gets the connections that came before it was asked to leave.
FINISH_SHARE: Final = 0.5
#: Seconds that a client has to send its first request, and the worker to read it; and seconds between two
#: checks whether the worker has connections at all.
FIRST_REQUEST: Final = 0.25
LOOK: Final = 0.01


class Farewell:
    """The farewell of one worker. `ask` asks it to leave.

    cuts_off: tells whether it has connections, and may close them unread when it is asked.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        switchboard: Switchboard,
        worker: int,
        ask: Callable[[], None],
        cuts_off: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._switchboard = switchboard
        self._worker = worker
        self._ask = ask
        self._cuts_off = cuts_off
        self._deadline = Deadline(loop, self._end)
        self._ends_by = math.inf
        self._reading = Deadline(loop, self._look)
        self._reads_by = math.inf
        #: Whether the worker leaves by itself: it is neither asked, nor kept for connections that had come.
        self.is_spared = False

    def leave_rotation(self, *, finishes: bool) -> None:
        """Give the worker no more connections, except those that are left for it if it `finishes`."""
        self._deadline.set(None)
        self._reading.set(None)
        if finishes and not self.is_spared:
            self._switchboard.finish(self._worker)
        else:
            self._switchboard.rest(self._worker, finishes=finishes)

    def begin(self, grace: float) -> None:
        """Ask the worker within a part of its `grace`. A later call can only shorten that time."""
        now = self._loop.time()
        self._ends_by = min(self._ends_by, now + grace * FINISH_SHARE)
        if self._switchboard.is_finishing(self._worker):
            self._deadline.set(self._ends_by)
        else:
            self._deadline.set(None)
            self._let_read()

    @property
    def lasts(self) -> bool:
        """Whether the worker is still to be asked."""
        return self._deadline.due is not None or self._reading.due is not None

    def on_finished(self) -> None:
        """Note that a listener has given the worker every connection that had come."""
        if self._deadline.due is not None and not self._switchboard.is_finishing(self._worker):
            self._end()

    def _end(self) -> None:
        self._break_off()
        self._let_read()

    def _let_read(self) -> None:
        """No connection comes any more: ask the worker once it has read the latest requests."""
        self._reads_by = min(self._reads_by, self._loop.time() + FIRST_REQUEST, self._ends_by)
        self._look()

    def _look(self) -> None:
        if self._loop.time() < self._reads_by and self._cuts_off():
            self._reading.set_in(LOOK)
        else:
            self._reading.set(None)
            self._ask()

    def cancel(self) -> bool:
        """Let the worker leave without being asked. Returns whether it was still to be asked."""
        if not self.lasts:
            return False
        self._break_off()
        return True

    def _break_off(self) -> None:
        self._deadline.set(None)
        self._reading.set(None)
        self._switchboard.rest(self._worker, finishes=True)
