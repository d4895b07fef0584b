"""The socket of a listener: reports when its backlog has connections, and takes them out.

HOT: `accept` runs at least once for each connection, so it makes no socket object. Invariant: no descriptor
stays here, and after a failure that lasts the dispatcher knows when to try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from everycore.core.arrivals import NoConnection
from everycore.core.dispatch import BURST, Dispatcher
from everycore.foreign.socket_internals import accept
from everycore.primary.listeners.subscriber import Accepted
from everycore.system.accepting import PAUSE, Trouble, trouble_of
from everycore.system.listeners import BoundSocket
from everycore.system.sockets import is_accepted_from, on_the_wire
from everycore.system.strange import close_strange

if TYPE_CHECKING:
    from everycore.primary.listeners.preambles import Preambles

log = logging.getLogger("everycore.primary")


class Acceptor:
    """Accepts the connections of one listener. `watches`: the loop calls `on_readable` when one waits.

    preambles: the connections whose PROXY header has not come yet. None: no proxy is trusted.
    """

    __slots__ = ("_dispatcher", "_listener", "_loop", "_on_readable", "_preambles", "watches")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: BoundSocket,
        dispatcher: Dispatcher[Accepted],
        on_readable: Callable[[], None],
        preambles: Preambles | None,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._dispatcher = dispatcher
        self._on_readable = on_readable
        self._preambles = preambles
        self.watches = False

    def watch(self, watches: bool) -> None:
        """From now on, call `on_readable` when a connection waits, or stop doing so."""
        self.watches = watches
        if watches:
            self._loop.add_reader(self._listener.sock, self._on_readable)
        else:
            self._loop.remove_reader(self._listener.sock)

    def shut(self) -> None:
        """Serve no later connection. If other processes have the listener too, leave it alone."""
        if self._listener.owned:
            self._listener.turn_away()
            self._dispatcher.arrivals.shut()
        else:
            self._dispatcher.arrivals.cease()

    def accept(self) -> Accepted | NoConnection:
        """Accept one connection. Its descriptor belongs to the caller."""
        sock, watch = self._listener.sock, self._listener.watch
        # Also for connections that have failed already, or wait for a header: `BURST` at a time.
        for _ in range(BURST):
            try:
                fd, peer = accept(sock) if watch is None else watch.accept(sock)
            except (BlockingIOError, InterruptedError):
                self._suspend_if_shutting()
                return NoConnection.EMPTY
            except OSError as exc:
                trouble = trouble_of(exc)
                if trouble is Trouble.CONNECTION:
                    continue
                if trouble is Trouble.LISTENER:
                    self._suspend_if_shutting()
                    return NoConnection.CLOSED
                what = self._listener.what
                log.warning("accept on %s: %s; connections wait in the backlog", what, exc.strerror)
                self._dispatcher.resume_accepting_at(self._loop.time() + PAUSE)
                return NoConnection.TROUBLE
            if type(peer) is not tuple:
                peer = on_the_wire(peer)
            if self._preambles is None:
                return fd, peer
            if (connection := self._preambles.of(fd, peer)) is not None:
                return connection
        return NoConnection.EMPTY

    def keep_own(self, connections: list[Accepted]) -> None:
        """Queue those that were accepted here, and close the others.

        They lay on the belt of a worker that had acknowledged them or given something else back for them. The
        worker may also have put them there, so the kernel is asked who the peer is. With a PROXY header the
        kernel does not know.
        """
        for fd, _ in connections:
            if self._preambles is None and is_accepted_from(self._listener.sock, fd):
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
                    self._dispatcher.arrivals.queue.append((fd, on_the_wire(sock.getpeername())))
                    continue
            close_strange((fd,))

    def _suspend_if_shutting(self) -> None:
        """Suspend the listener now that none waits: a connection that came in between would be reset."""
        if self._dispatcher.arrivals.is_shutting:
            self._listener.suspend()
