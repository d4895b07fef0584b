"""Whether a listener listens, as its ready workers come and go.

Without a ready worker it refuses new connections, or holds them for a while, as `NoWorkerBehaviour` says.
Invariant: connections flow exactly while the listener is to listen, a worker is ready, its doors are open,
and no other process has taken the port.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from everycore.aio.deadline import Deadline
from everycore.primary.listeners.distribution import Distribution
from everycore.primary.listeners.doors import Doors
from everycore.primary.listeners.subscriber import Subscriber
from everycore.system.listeners import BoundSocket

log = logging.getLogger("everycore.primary")

#: Seconds between two attempts to listen again after another process took the port meanwhile.
RELISTEN_PAUSE: Final = 1.0

NoWorker = Literal["refuse", "hold"]


class NoWorkerBehaviour(msgspec.Struct, frozen=True):
    """What to do with new connections while no worker is ready. `hold_timeout` is in seconds."""

    when_no_worker: NoWorker = "refuse"
    hold_timeout: float = 30.0


class Attendance:
    """The attendance of one listener. `subscribers`: its workers. Call `look` after changing them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: BoundSocket,
        distribution: Distribution,
        doors: Doors,
        subscribers: Mapping[int, Subscriber],
        no_worker: NoWorkerBehaviour,
    ) -> None:
        self._socket = socket
        self._distribution = distribution
        self._doors = doors
        self._subscribers = subscribers
        self._no_worker = no_worker
        #: Whether the listener is to listen. False while its address is only bound, and once it is closed.
        self.counts = False
        self._hold = Deadline(loop, self._refuse)
        #: When to try to listen again, after another process took the port.
        self._again = Deadline(loop, self.look)

    @property
    def somebody_is_ready(self) -> bool:
        """Whether some worker may be given connections."""
        return any(subscriber.ready for subscriber in self._subscribers.values())

    def begin(self) -> None:
        """Note that the listener listens."""
        self.counts = True
        if self._subscribers:
            self.look()

    def end(self) -> None:
        """Prepare for the close of the listener."""
        self.counts = False
        self._hold.set(None)
        self._again.set(None)

    def look(self) -> None:
        """Refuse, hold or listen again, depending on whether a worker is ready."""
        self._again.set(None)
        if not self.counts:
            return
        if self.somebody_is_ready:
            self._hold.set(None)
            if self._doors.are_open:
                self._listen_again()
        elif self._no_worker.when_no_worker == "refuse" or not self._doors.are_open:
            self._refuse()
        elif self._hold.due is None and self._socket.is_listening:
            self._distribution.set_flowing(False)
            self._hold.set_in(self._no_worker.hold_timeout)

    def _refuse(self) -> None:
        self._hold.set(None)
        self._distribution.set_flowing(False)
        if self._distribution.refuse(is_held=bool(self._subscribers)):
            self._socket.suspend()

    def _listen_again(self) -> None:
        was_shut_down = self._socket.was_shut_down()
        try:
            self._socket.listen()
        except OSError as exc:
            log.error("%s; trying again in %g s", exc, RELISTEN_PAUSE)  # noqa: TRY400 - the sentence says it
            self._again.set_in(RELISTEN_PAUSE)
        else:
            if was_shut_down:
                log.warning("%s: a worker had shut down the listener; it listens again", self._socket.what)
            self._distribution.set_flowing(True)
