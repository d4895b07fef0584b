"""The primary accepts, and puts connections on belts, as the dispatcher says.

This module sends, reads back and obeys. `core.dispatch` makes every decision, and the `Acceptor` accepts.
HOT: `_turn`, `_send` and `take` run at least once for each connection. So they do the least possible (one
`sendmsg` for each worker and turn, `os.close` for the copies), and make no event, log line or task.

Invariant: every accepted descriptor is closed here or is in the dispatcher's queue. A descriptor that was
read from a belt is on no belt any more.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from everycore.aio.deadline import Deadline
from everycore.core import wire
from everycore.core.dispatch import Dispatcher
from everycore.errors import ProtocolError
from everycore.primary.listeners.acceptor import Acceptor
from everycore.primary.listeners.distribution import LAST_WORDS
from everycore.primary.listeners.subscriber import Accepted, Subscriber
from everycore.system.listeners import BoundSocket
from everycore.system.strange import close_strange

if TYPE_CHECKING:
    from everycore.core.proxies import Proxies
    from everycore.primary.listeners.preambles import Preambles

log = logging.getLogger("everycore.primary")

#: Errors of a belt that never takes anything again: the worker, which has a duplicate of the primary's end,
#: has shut it down.
BROKEN: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})
#: The shortest wait of an event loop, in seconds. With a shorter one uvloop would spin.
FINEST: Final = 0.001


class Distributor:
    """The primary accepts the connections of a listener, and hands them over: a `Distribution`."""

    policy = "round_robin"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: BoundSocket,
        dispatcher: Dispatcher[Accepted],
        proxies: Proxies | None = None,
    ) -> None:
        self._loop = loop
        self.dispatcher = dispatcher
        self._preambles = _preambles(loop, listener, proxies, self._on_preamble) if proxies else None
        self._acceptor = Acceptor(loop, listener, dispatcher, self._on_readable, self._preambles)
        self._accept = self._acceptor.accept
        #: Workers that asked to be served: each has a lane, or may still report on connections it was given.
        self._served: dict[int, Subscriber] = {}
        self._then: Callable[[], None] | None = None
        #: Called when every connection that came before the listener shut was picked up.
        self._on_shut: Callable[[], None] | None = None
        self._looking = Deadline(loop, self._look, least=FINEST)
        self._is_closed = False

    @property
    def accepted(self) -> int:
        """The number of connections accepted here."""
        return self.dispatcher.arrivals.accepted

    @property
    def queued(self) -> int:
        """The number of connections accepted here that wait for a worker."""
        return len(self.dispatcher.arrivals.queue)

    @property
    def finishing(self) -> int | None:
        """As `Distribution.finishing`."""
        return self.dispatcher.finishing

    def shared(self) -> tuple[int, ...]:
        """Nothing: a belt is all that a worker needs."""
        return ()

    def account(self, worker: int) -> tuple[int, int]:
        """The connections handed to `worker` so far, and those that it has not acknowledged."""
        lane = self.dispatcher.lanes.lane_of(worker)
        return (0, 0) if lane is None else (lane.total, lane.outstanding)

    def oldest(self, worker: int) -> float | None:
        """As `Distribution.oldest`. A connection taken back counts until the worker reports again."""
        lane = self.dispatcher.lanes.lane_of(worker)
        return None if lane is None else lane.oldest()

    def close(self) -> None:
        """As `Distribution.close`."""
        self._is_closed = True
        self.set_flowing(False)
        self._looking.set(None)
        self._drop_queue()

    def abandon(self) -> None:
        """As `Distribution.abandon`. Connections that wait here belong to the parent too."""
        self._is_closed = True
        if self._preambles is not None:
            self._preambles.abandon()
        self._drop_queue()

    # --- subscribers ------------------------------------------------------------------------------------

    def set_flowing(self, flows: bool) -> None:
        """As `Distribution.set_flowing`."""
        if flows:
            self.dispatcher.arrivals.begin()
        else:
            self.dispatcher.arrivals.cease()
        self._obey()

    def refuse(self, *, is_held: bool) -> bool:
        """As `Distribution.refuse`. Connections that wait here are closed."""
        self._drop_queue()
        return True

    def _drop_queue(self) -> None:
        if self._preambles is not None:
            self._preambles.drop()
        close_strange(fd for fd, _ in self.dispatcher.arrivals.drop())

    def shut(self, then: Callable[[], None]) -> None:
        """As `Distribution.shut`."""
        self._on_shut = then
        self._acceptor.shut()
        self._turn()

    def _end_shutting(self) -> None:
        if self._on_shut is None or self.dispatcher.arrivals.is_shutting:
            return
        if self.dispatcher.is_idle and not self._preambles:
            then, self._on_shut = self._on_shut, None
            then()

    def serve(self, subscriber: Subscriber) -> None:
        """As `Distribution.serve`."""
        if subscriber.batch:
            self._served[subscriber.client.id] = subscriber
            self.dispatcher.join(subscriber.client.id, subscriber.batch, subscriber.room)
            self._turn()

    def withdraw(self, subscriber: Subscriber) -> None:
        """As `Distribution.withdraw`."""
        worker = subscriber.client.id
        self.dispatcher.leave(worker)
        self._read_back(subscriber)
        if subscriber.is_leaving:
            self._served.pop(worker, None)
            lost = self.dispatcher.forget(worker)
            if lost and log.isEnabledFor(logging.DEBUG):
                log.debug("worker %d left with %d unacknowledged connections", worker, lost)
        self._turn()

    def finish(self, subscriber: Subscriber, then: Callable[[], None] | None = None) -> bool:
        """As `Distribution.finish`."""
        worker = subscriber.client.id
        if not self.dispatcher.finish(worker):
            self.withdraw(subscriber)
            return True
        self._hand_over(woken=False)
        if then is None:
            self.dispatcher.end_finishing(worker)
        self._then = then
        return self.dispatcher.finishing is None

    # --- connections go out -------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        self._hand_over(woken=True)  # not watched while the listener is closed, or a worker is finishing

    def _on_preamble(self, connection: Accepted | None) -> None:
        """Handle a connection that has the address of its client now; None: one has ended without it."""
        if connection is not None:
            self.dispatcher.arrivals.come(connection)
        self._turn()

    def _turn(self) -> None:
        """Hand over the connections that wait, as long as a worker may have them."""
        if self._is_closed:
            self._drop_queue()
            return
        was_finishing = self.dispatcher.finishing is not None
        self._hand_over(woken=False)
        if was_finishing and self.dispatcher.finishing is None:
            self._end_finishing()
        self._end_shutting()

    def _end_finishing(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            then()

    def _hand_over(self, *, woken: bool) -> None:
        dispatcher, now = self.dispatcher, self._loop.time()
        for worker, first, share in dispatcher.turn(now, self._accept, woken=woken):
            if not self._send(worker, first, share):
                dispatcher.refused(worker, now)
        self._obey()

    def _obey(self) -> None:
        poll, look_at, turn_soon = self.dispatcher.orders
        if poll != self._acceptor.watches:
            self._acceptor.watch(poll)
        if look_at != self._looking.due:
            self._looking.set(look_at)
        if turn_soon:
            self._loop.call_soon(self._turn)

    def _send(self, worker: int, first: int, share: list[Accepted]) -> bool:
        """Put one message on the belt, and close the copies here. Returns False if the belt took nothing."""
        subscriber = self._served[worker]
        fds = [fd for fd, _ in share]
        try:
            subscriber.belt.send(wire.encode(wire.Handover(first, [peer for _, peer in share])), fds)
        except OSError as exc:
            if exc.errno in BROKEN:
                subscriber.accuse(self._loop, ProtocolError(f"its belt is broken: {exc}"))
            return False
        for fd in fds:
            os.close(fd)
        return True

    # --- what workers say ---------------------------------------------------------------------------------

    def take(self, subscriber: Subscriber, message: Any, fds: list[int]) -> None:
        """As `Distribution.take`."""
        worker = subscriber.client.id
        if type(message) is wire.Acked:
            self.dispatcher.acknowledged(worker, message.last, self._loop.time(), message.cost / 1e6)
            return
        match message:
            case wire.GiveBack(number, peer):
                # No descriptor came along if this process had none left: the kernel has dropped it.
                try:
                    self.dispatcher.came_back(worker, number, 1, [(fd, peer) for fd in fds])
                except ProtocolError:
                    close_strange(fds)
                    raise
            case wire.Full():
                was_finishing = self.dispatcher.finishing == worker
                self.dispatcher.fill(worker)
                self._read_back(subscriber)
                if was_finishing and not subscriber.is_leaving:
                    self._end_finishing()

    def on_belt_read(self) -> None:
        """As `Distribution.on_belt_read`."""
        if self.dispatcher.needs_turn:
            self._turn()
        elif self._on_shut is not None:
            self._end_shutting()

    # --- connections come back ----------------------------------------------------------------------------

    def _read_back(self, subscriber: Subscriber) -> None:
        """Queue again what the worker has not read."""
        error: ProtocolError | None = None
        for _ in range(LAST_WORDS):
            message = None
            try:
                if (message := subscriber.read_back()) is None:
                    break
                self.dispatcher.came_back(subscriber.client.id, *message)
            except ProtocolError as exc:
                error = exc
                if message is not None:
                    self._acceptor.keep_own(message.connections)
        if error is not None:
            subscriber.accuse(self._loop, ProtocolError(f"read back from its belt: {error}"))

    def _look(self) -> None:
        now = self._loop.time()
        for worker in self.dispatcher.look(now):
            self._read_back(self._served[worker])
            probe = self.dispatcher.recalled(worker, now)
            if probe is not None and not self._send(worker, probe, []):
                # The belt is full of messages that were taken back. It will have room the next time.
                self.dispatcher.came_back(worker, probe, 1, [])
        if self.dispatcher.needs_turn:
            self._turn()
        else:
            self._obey()
            self._end_shutting()


def _preambles(
    loop: asyncio.AbstractEventLoop,
    listener: BoundSocket,
    proxies: Proxies,
    on_come: Callable[[Accepted | None], None],
) -> Preambles:
    from everycore.primary.listeners.preambles import Preambles  # late: few trust a proxy

    return Preambles(loop, listener, proxies, on_come)
