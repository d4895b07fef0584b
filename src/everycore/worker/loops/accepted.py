"""One accepted connection of a `BeltServer`: what stands for its socket until its descriptor is closed.

A connection is served in one of two ways. *By hand*, where the loop is a uvloop as we know it
(`foreign.uvloop_internals`): `Accepted` stands for the socket and advances the loop's coroutine. That
is finished together with the acknowledgement, when what it waits for has long happened; should it wait for
something else, `Accepted.advance` goes on for as long as it takes. *By a task* elsewhere: `AcceptedSocket` is
a socket, and any loop takes it.

HOT: made and called for every connection.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from everycore.worker.connections.counted import CountedSocket

if TYPE_CHECKING:
    from everycore.worker.connections.ledger import Ledger
    from everycore.worker.connections.limits import ConnectionLimit


class Server(Protocol):
    """The server, as its connections know it."""

    is_asyncio: bool
    ledger: Ledger
    connection_limit: ConnectionLimit

    def ended(self) -> None:
        """One of its connections has ended."""
        ...

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        ...


class AcceptedConnection(Protocol):
    """One accepted connection, until its descriptor is closed."""

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Let `connect_accepted_socket` make the transport."""
        ...

    def advance(self) -> None:
        """Go on with it, a few turns later."""
        ...


class Accepted:
    """An accepted connection, as the socket that uvloop's transport believes to stand on."""

    __slots__ = ("_coroutine", "_fd", "_transport", "_waits", "entry", "family", "server")

    type = socket.SOCK_STREAM.value

    def __init__(self, fd: int, family: int, _proto: int, server: Server) -> None:
        self._fd = fd
        self.family = family
        self.server = server
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._waits: Any = None
        self._transport: Callable[[], Any] | None = None
        self.entry = server.ledger.opened(server.connection_limit, self)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Let `connect_accepted_socket` make the transport. Raises what the program's factory raises."""
        self._waits = coroutine.send(None)
        self._coroutine = coroutine

    def advance(self, _: Any = None) -> None:
        """Go on with it, as far as it gets now; the rest follows by itself."""
        coroutine = self._coroutine
        if coroutine is None:  # ended meanwhile
            return
        if not self._waits.done():
            self._waits.add_done_callback(self.advance)
            return
        try:
            self._waits = coroutine.send(None)
        except StopIteration as stop:
            self._coroutine = self._waits = None
            self._hold(stop.value[0])
        except Exception:  # a handshake that failed, a peer that is gone: uvloop has seen to the transport
            self._coroutine = self._waits = None
        else:
            self._waits.add_done_callback(self.advance)

    def _hold(self, transport: Any) -> None:
        if not self.entry.is_open:
            return
        try:
            # A transport that its program drops without closing it is closed by its end.
            self._transport = weakref.ref(transport, self.close)
        except TypeError:  # one of TLS
            self._transport = lambda: transport

    def close(self, _: Any = None) -> None:
        """The connection is closed: called by uvloop, last of all."""
        self._transport = None
        self.entry.closed()
        self.server.ended()

    def end(self, *, abort: bool) -> None:
        """Close the transport, or cut it off."""
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is not None:
            coroutine.close()
        transport = self._transport() if self._transport is not None else None
        if transport is not None:
            if abort:
                transport.abort()
            else:
                transport.close()


class AcceptedSocket(CountedSocket):
    """An accepted connection as a socket, which a task gives to the loop."""

    __slots__ = ("_server", "_task")

    def __init__(self, fd: int, family: int, proto: int, server: Server) -> None:
        # asyncio sets TCP_NODELAY by `proto`
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
            # A handshake that failed, a peer that is gone. The loop has seen to the transport, if any.
            self.close()
            return
        transport = task.result()[0]
        try:
            self._carrier = weakref.ref(transport, None if self._server.is_asyncio else self._dropped)
        except TypeError:  # one of uvloop's TLS
            self._carrier = lambda: transport

    def _dropped(self, _: Any) -> None:
        """The program has let go of the transport without closing it: uvloop closes the descriptor.

        asyncio's transport closes its socket, this one, in such a case.
        """
        if self.fileno() >= 0:
            self.detach()

    def advance(self) -> None:
        """The task goes on by itself."""

    def end(self, *, abort: bool) -> None:
        """Close the transport, or cut it off."""
        if self._task is not None:
            self._task.cancel()
        super().end(abort=abort)

    def close(self) -> None:
        """As `socket.close`."""
        super().close()
        self._carrier = None
        self._server.ended()

    def detach(self) -> int:
        """As `socket.detach`."""
        number = super().detach()
        self._server.ended()
        return number
