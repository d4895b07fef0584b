"""The workers accept: they share the listener, or the datagram socket.

Every worker gets the descriptor itself. A worker that accepts without a loop of everycore is told when it
may. The primary watches that no connection waits because the worker that was woken for it has died, stopped
or blocked. Invariants: a connection stays in the accept queue for at most two checks while some worker could
take it; a `Rest` lies on the belt of a worker exactly while that is not ready. Nothing is accepted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

from everycore.aio.deadline import Deadline
from everycore.core import wire
from everycore.errors import ProtocolError
from everycore.primary.listeners.distribution import LAST_WORDS
from everycore.primary.listeners.subscriber import Subscriber
from everycore.system.descriptors import close_all, duplicate
from everycore.system.listeners import BoundSocket
from everycore.system.strange import close_strange
from everycore.system.wakeups import Baton, is_readable

#: Seconds between two checks of the accept queue. If two checks in a row find connections, the baton is
#: passed on.
LOOK: Final = 0.05
#: The same, for a listener that is to stop listening once no connection waits there.
LOOK_SHUTTING: Final = 0.005
_REST: Final = wire.encode(wire.Rest())


class SharedDistribution:
    """The workers accept the connections of a listener themselves: a `Distribution`."""

    policy = "shared"
    #: No connection passes through here. The board has the workers' own counts.
    accepted = queued = 0
    finishing = dispatcher = None

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: BoundSocket) -> None:
        self._loop = loop
        self._listener = listener
        self._baton = Baton() if listener.kind == socket.SOCK_STREAM else None
        self._looking = Deadline(loop, self._look)
        self._waited = False
        #: Called when every connection that came before the listener shut was taken.
        self._on_shut: Callable[[], None] | None = None
        self._shutting = Deadline(loop, self._see_if_empty)

    def shared(self) -> tuple[int, ...]:
        """Duplicates of the listener and of the baton."""
        listener = duplicate(self._listener.sock.fileno())
        if self._baton is None:
            return (listener,)
        try:
            return listener, self._baton.open()
        except OSError:
            close_all((listener,))
            raise

    def account(self, worker: int) -> tuple[int, int]:
        """As `Distribution.account`."""
        return (0, 0)

    def oldest(self, worker: int) -> float | None:
        """As `Distribution.oldest`: the primary gives no worker a connection."""
        return None

    def close(self) -> None:
        """As `Distribution.close`."""
        self.set_flowing(False)
        self._stop_shutting()
        self.abandon()

    def abandon(self) -> None:
        """As `Distribution.abandon`."""
        if self._baton is not None:
            self._baton.close()
            self._baton = None

    # --- subscribers ------------------------------------------------------------------------------------

    def serve(self, subscriber: Subscriber) -> None:
        """As `Distribution.serve`. The worker polls the listener once there is no `Rest` on its belt.

        This leaves nothing on the belt. The worker, which has a copy of the primary's end, may have put more
        there.
        """
        for _ in range(LAST_WORDS):
            try:
                message = subscriber.belt.read_back()
            except OSError:  # nothing, or no more: the belt may not have had room for the `Rest`
                return
            if message is None:
                return
            data, fds, _ = message
            close_strange(fds)
            if fds or data != _REST:
                what = "it has written on the primary's end of its belt"
                subscriber.accuse(self._loop, ProtocolError(what))

    def withdraw(self, subscriber: Subscriber) -> None:
        """As `Distribution.withdraw`."""
        if not subscriber.is_leaving:
            # An error means no memory for buffers: the worker goes on until its sockets are closed.
            with contextlib.suppress(OSError):
                subscriber.belt.send(_REST, ())
        # The worker may just have been woken.
        if self._baton is not None:
            self._baton.pass_on()

    def finish(self, subscriber: Subscriber, then: Callable[[], None] | None = None) -> bool:
        """As `Distribution.finish`. The worker takes the connections that have come by itself."""
        self.withdraw(subscriber)
        return True

    def take(self, subscriber: Subscriber, message: Any, fds: list[int]) -> None:
        """As `Distribution.take`. No message is allowed here."""
        close_strange(fds)
        raise ProtocolError(f"{type(message).__name__} on the belt of a shared listener")

    def on_belt_read(self) -> None:
        """As `Distribution.on_belt_read`."""

    # --- the flow -----------------------------------------------------------------------------------------

    def set_flowing(self, flows: bool) -> None:
        """As `Distribution.set_flowing`."""
        if not flows:
            self._looking.set(None)
            return
        self._stop_shutting()
        if self._looking.due is None and self._baton is not None:
            self._looking.set_in(LOOK)

    def refuse(self, *, is_held: bool) -> bool:
        """As `Distribution.refuse`.

        Suspending a unix listener closes it. If workers hold it, they would keep it alive, and it could not
        be bound again. So with unready workers, connections wait for them in the backlog.
        """
        return self._listener.family != socket.AF_UNIX or not is_held

    def shut(self, then: Callable[[], None]) -> None:
        """As `Distribution.shut`. The workers take the connections that have come."""
        self._on_shut = then
        self._see_if_empty()

    def _see_if_empty(self) -> None:
        """Close the listener once no connection waits: the kernel resets the ones in its queue."""
        listener = self._listener
        if listener.owned and listener.kind == socket.SOCK_STREAM and listener.is_listening:
            if is_readable(listener.sock.fileno()):
                self._shutting.set_in(LOOK_SHUTTING)
                return
            listener.turn_away()
            listener.suspend()
        then, self._on_shut = self._on_shut, None
        if then is not None:
            then()

    def _stop_shutting(self) -> None:
        self._on_shut = None
        self._shutting.set(None)

    def _look(self) -> None:
        self._looking.set_in(LOOK)
        waits = self._listener.is_listening and is_readable(self._listener.sock.fileno())
        if waits and self._waited and self._baton is not None:
            self._baton.pass_on()
        self._waited = waits
