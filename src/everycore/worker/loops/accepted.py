"""One accepted connection of a `BeltServer`: the object that stands for its socket while it is open.

A connection is served in one of two ways:

- *By hand*, if the loop is a uvloop that `foreign.uvloop_internals` knows: `Accepted` stands for the socket
  and advances the loop's coroutine. The coroutine is finished together with the acknowledgement, when the
  future that it awaits is long done. If it awaits something else, `Accepted.advance` goes on for as long as
  it takes.
- *By a task* elsewhere: `AcceptedSocket` is a socket, and any loop accepts it.

HOT: the objects are made and called for every connection.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from everycore.worker.connections.counted import CountedSocket, end_transport
from everycore.worker.connections.ledger import Entry

if TYPE_CHECKING:
    from everycore.worker.connections.ledger import Ledger
    from everycore.worker.connections.limits import ConnectionLimit


class Server(Protocol):
    """The part of a server that its connections use."""

    is_asyncio: bool
    ledger: Ledger
    connection_limit: ConnectionLimit

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        ...


class AcceptedConnection(Protocol):
    """One accepted connection, until its descriptor is closed."""

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Let `connect_accepted_socket` make the transport."""
        ...

    def advance(self) -> None:
        """Advance the connection, a few turns of the loop later."""
        ...


class Accepted(Entry):
    """An accepted connection: the socket that uvloop's transport believes it stands on, and its own entry."""

    __slots__ = ("_coroutine", "_fd", "_transport", "_waits", "family")

    type = socket.SOCK_STREAM.value

    def __init__(self, fd: int, family: int, _proto: int, server: Server) -> None:
        self._ledger = ledger = server.ledger
        self.server = server.connection_limit
        self._fd = fd
        self.family = family
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._waits: Any = None
        self._transport: Callable[[], Any] | None = None
        ledger.enter(self)

    @property
    def connection(self) -> Accepted:  # type: ignore[override] # where an entry of its own has a field
        """As `Entry.connection`."""
        return self

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Let `connect_accepted_socket` make the transport. The errors of the program's factory propagate."""
        self._waits = coroutine.send(None)
        self._coroutine = coroutine

    def advance(self, _: Any = None) -> None:
        """Advance the coroutine one step. Later steps follow by themselves when it can go on."""
        coroutine = self._coroutine
        if coroutine is None:  # the connection has ended in the meantime
            return
        if not self._waits.done():
            self._waits.add_done_callback(self.advance)
            return
        try:
            self._waits = coroutine.send(None)
        except StopIteration as stop:
            self._coroutine = self._waits = None
            self._hold(stop.value[0])
        except Exception:  # the handshake failed, or the peer is gone: uvloop has closed the transport
            self._coroutine = self._waits = None
        else:
            self._waits.add_done_callback(self.advance)

    def _hold(self, transport: Any) -> None:
        if self._ledger is None:
            return
        try:
            # If the program drops the transport without closing it, its finalizer closes it.
            self._transport = weakref.ref(transport, self.close)
        except TypeError:  # a TLS transport takes no weak references
            self._transport = lambda: transport

    def close(self, _: Any = None) -> None:
        """The connection is closed. uvloop calls this last of all."""
        self._transport = None
        self.closed()

    def end(self, *, abort: bool) -> None:
        """Close the transport, or abort it."""
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is not None:
            coroutine.close()
        end_transport(self._transport, abort=abort)


class AcceptedSocket(CountedSocket):
    """An accepted connection as a socket, which a task hands to the loop."""

    __slots__ = ("_server", "_task")

    def __init__(self, fd: int, family: int, proto: int, server: Server) -> None:
        # asyncio decides by `proto` whether to set TCP_NODELAY
        super().__init__(family, socket.SOCK_STREAM, proto, fd, server.ledger, server.connection_limit)
        self.setblocking(False)
        self._server = server
        self._task: asyncio.Task[Any] | None = None

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Let `connect_accepted_socket` make the transport."""
        self._task = self._server.get_loop().create_task(coroutine)
        self._task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        if task.cancelled() or task.exception() is not None:
            # The handshake failed, or the peer is gone. The loop has closed the transport, if there was one.
            self.close()
            return
        transport = task.result()[0]
        try:
            self._carrier = weakref.ref(transport, None if self._server.is_asyncio else self._dropped)
        except TypeError:  # uvloop's TLS transport takes no weak references
            self._carrier = lambda: transport

    def _dropped(self, _: Any) -> None:
        """The program has dropped the transport without closing it, and uvloop closes the descriptor.

        asyncio's transport would close its socket, which is this object.
        """
        if self.fileno() >= 0:
            self.detach()

    def advance(self) -> None:
        """Do nothing: the task advances by itself."""

    def end(self, *, abort: bool) -> None:
        """Close the transport, or abort it."""
        if self._task is not None:
            self._task.cancel()
        super().end(abort=abort)

    def close(self) -> None:
        """As `socket.close`."""
        super().close()
        self._carrier = None
