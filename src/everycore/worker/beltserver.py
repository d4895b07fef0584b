"""A server on belts for an event loop that has no hook for it: uvloop.

Job: keep the word of `asyncio.Server`'s documentation (`uvloop.Server` can't be built from Python). HOT:
`BeltReception.give` and `Accepted` run for every connection.

Two facts of uvloop are relied upon, both part of what a Python program sees of it:

* `loop.connect_accepted_socket(factory, sock)`, a coroutine, has made the transport when it first waits. So
  it is advanced by hand, and finished together with the acknowledgement, when what it waits for has long
  happened. A task for each connection costs 18 us, this 7 us (measured). Should it ever wait for something
  else, `Accepted.advance` goes on for as long as it takes.
* it asks its `sock` for `family`, `type` and `fileno()`, and calls `close()` once the transport has closed
  the descriptor itself; hence `Accepted` instead of a `socket.socket`, and an exact count of connections.

Invariant: what is in `BeltServer._accepted` is an open connection. Must not import uvloop, nor the primary's
side.
"""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from everycore.core import wire
from everycore.worker.clustersocket import ClusterSocket, SharedSocket
from everycore.worker.limits import Limit
from everycore.worker.reception import Reception
from everycore.worker.turns import SharedReception

if TYPE_CHECKING:
    import ssl as ssl_module

    from everycore.worker.context import WorkerContext


class Accepted:
    """An accepted connection, as the socket that uvloop's transport believes to stand on."""

    __slots__ = ("_coroutine", "_fd", "_transport", "_waits", "family", "server")

    type = socket.SOCK_STREAM.value

    def __init__(self, fd: int, family: int, server: BeltServer) -> None:
        self._fd = fd
        self.family = family
        self.server = server
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._waits: Any = None
        self._transport: Callable[[], Any] | None = None

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
        if self not in self.server._accepted:
            return  # closed already
        try:
            # A transport that its program drops without closing it is closed by its end.
            self._transport = weakref.ref(transport, self.close)
        except TypeError:  # one of TLS
            self._transport = lambda: transport

    def close(self, _: Any = None) -> None:
        """The connection is closed: called by uvloop, last of all."""
        self._transport = None
        self.server._ended(self)

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


class BeltReception(Reception):
    """Gives the connections of one `ClusterSocket` to one server."""

    __slots__ = ("_connect", "_family", "_fresh", "_server")

    #: `connection_made`, and the first data callback, which runs while libuv polls.
    turns = 2

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: WorkerContext,
        sock: ClusterSocket,
        connect: Callable[[Accepted], Coroutine[Any, Any, Any]],
        server: BeltServer,
    ) -> None:
        super().__init__(loop, context, sock, server.connection_limit)
        self._connect = connect
        self._family = int(sock.family)
        self._server = server
        self._fresh: list[Accepted] = []

    def give(self, fd: int, peer: Any) -> None:
        """Let the program have the connection `fd`. uvloop asks the kernel for the peer's address itself."""
        accepted = self._begin(fd)
        if accepted is not None:
            self._fresh.append(accepted)

    def give_at_once(self, fd: int, peer: Any) -> None:
        """As `give`, for a connection that nobody waits to hear of."""
        accepted = self._begin(fd)
        if accepted is not None:
            accepted.advance()

    def _begin(self, fd: int) -> Accepted | None:
        accepted = Accepted(fd, self._family, self._server)
        self._server._begun(accepted)
        try:
            accepted.begin(self._connect(accepted))
        except BaseException as exc:
            self._server._ended(accepted)
            os.close(fd)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            self._failed(exc)
            return None
        return accepted

    def _acknowledge(self, word: wire.Acked) -> None:
        super()._acknowledge(word)
        fresh, self._fresh = self._fresh, []
        for accepted in fresh:
            accepted.advance()


class BeltServer(asyncio.AbstractServer):
    """As `asyncio.Server` is documented, for listeners of the primary.

    `connect` is uvloop's own `connect_accepted_socket`, bound to the loop. `source` says where the
    connections of one of `sockets` come from, once that listens: a program that knows nothing of a cluster
    has sockets of its own in front (`everycore run`).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: WorkerContext,
        sockets: Iterable[socket.socket],
        factory: Callable[[], asyncio.BaseProtocol],
        ssl: ssl_module.SSLContext | None,
        backlog: int,
        ssl_times: dict[str, float | None],
        connect: Callable[..., Coroutine[Any, Any, Any]],
        source: Callable[[Any], ClusterSocket] = lambda sock: sock,
    ) -> None:
        self._loop: Any = loop
        self._context = context
        self._sockets: list[socket.socket] | None = list(sockets)
        self._source = source
        self._read: list[ClusterSocket] = []
        self._connect = partial(connect, factory, ssl=ssl, **ssl_times)
        self._backlog = backlog
        self._serving = False
        self._forever: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] | None = []
        self._accepted: set[Accepted] = set()
        #: For `everycore.limit_connections`.
        self.connection_limit = Limit()
        self._connections = context.connections

    def __repr__(self) -> str:
        return f"<everycore.BeltServer sockets={self.sockets!r}>"

    # --- its connections, told by `Accepted` --------------------------------------------------------------

    def _begun(self, accepted: Accepted) -> None:
        self._accepted.add(accepted)
        self.connection_limit.open += 1
        self._connections.began()

    def _ended(self, accepted: Accepted) -> None:
        if accepted in self._accepted:
            self._accepted.discard(accepted)
            self._connections.ended()
            self.connection_limit.ended()
            if self._sockets is None and not self._accepted:
                self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # --- as asyncio.Server --------------------------------------------------------------------------------

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """The listening sockets; none once it is closed."""
        return tuple(TransportSocket(sock) for sock in self._sockets or ())

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop."""
        loop: asyncio.AbstractEventLoop = self._loop
        return loop

    def is_serving(self) -> bool:
        """Whether it takes connections."""
        return self._serving

    async def start_serving(self) -> None:
        """Take connections; again: nothing. Raises RuntimeError if it is closed, OSError."""
        self._start()
        await asyncio.sleep(0)  # others get their turn, as with asyncio

    def _start(self) -> None:
        if self._serving:
            return
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._serving = True
        for sock in self._sockets:
            sock.listen(self._backlog)
            self._take_from(self._source(sock))
        self._context.watch_server(self)
        self._connections.watch_server(self)

    def _take_from(self, source: ClusterSocket) -> None:
        source.setblocking(False)
        reception = BeltReception(self._loop, self._context, source, self._connect, self)
        if isinstance(source, SharedSocket):
            self._loop.stamp()
            SharedReception(
                self._loop,
                source,
                self._context,
                reception.give_at_once,
                self.connection_limit,
                reception.turns,
            ).begin()
        else:
            self._loop.add_reader(source.fileno(), reception.on_readable)
            self._read.append(source)
            reception.begin()

    async def serve_forever(self) -> None:
        """Take connections until it is cancelled, or closed, which cancels this. Closes the server."""
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        self._start()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            try:
                self.close()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._forever = None

    def close(self) -> None:
        """Take no more connections; those that are open go on. Again: nothing."""
        sockets, self._sockets = self._sockets, None
        if sockets is None:
            return
        for source in self._read:
            if source.fileno() >= 0:
                self._loop.remove_reader(source.fileno())
        for sock in sockets:
            sock.close()
        self._serving = False
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        if not self._accepted:
            self._wake()

    async def wait_closed(self) -> None:
        """Wait until it is closed and its connections have ended."""
        if self._waiters is not None:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def close_clients(self) -> None:
        """Close every connection that is open."""
        for accepted in tuple(self._accepted):
            accepted.end(abort=False)

    def abort_clients(self) -> None:
        """Cut every connection that is open."""
        for accepted in tuple(self._accepted):
            accepted.end(abort=True)
