"""A server on belts for an event loop that has no hook for one: uvloop, and an asyncio that is unknown.

It keeps the word of `asyncio.Server`'s documentation, by `loop.connect_accepted_socket` alone. HOT:
`BeltReception.give` runs for every connection.

Invariant: what is in `BeltServer._accepted` is an open connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from everycore.core import wire
from everycore.worker.connections.limits import Limit
from everycore.worker.connections.reception import Reception, descriptor_limit
from everycore.worker.connections.turns import SharedReception
from everycore.worker.listening.clustersocket import ClusterSocket, SharedSocket
from everycore.worker.loops.accepted import Accepted, AcceptedSocket, Connection
from everycore.worker.loops.clustered import Factory, Terms, checked_protocol

if TYPE_CHECKING:
    from everycore.worker.session import Session

Connect = Callable[..., Coroutine[Any, Any, Any]]
#: `asyncio.Server.serve_forever`, when it ends, closes the connections that are open.
_FOREVER_CLOSES_CLIENTS: Final = sys.version_info >= (3, 14)


class BeltReception(Reception):
    """Gives the connections of one `ClusterSocket` to one server."""

    __slots__ = ("_family", "_fresh", "_proto", "_server", "turns")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, session: Session, sock: ClusterSocket, server: BeltServer
    ) -> None:
        super().__init__(
            loop,
            sock,
            server.connection_limit,
            receptions=session.receptions,
            descriptor_limit=descriptor_limit(),
        )
        # By hand: `connection_made`, and the first data callback, which runs while libuv polls. By a task:
        # its first step, `connection_made`, the descriptor's registration, and the first data callback.
        self.turns = 2 if server.by_hand else 4
        self._family, self._proto = int(sock.family), sock.proto
        self._server = server
        #: Connections that the program was given since the last acknowledgement.
        self._fresh: list[Connection] = []

    def give(self, fd: int, peer: Any) -> None:
        """Let the program have the connection `fd`; the loop asks for the peer's address itself."""
        accepted = self._begin(fd)
        if accepted is not None:
            self._fresh.append(accepted)

    def give_at_once(self, fd: int, peer: Any) -> None:
        """As `give`, for a connection that nobody waits to hear of."""
        accepted = self._begin(fd)
        if accepted is not None:
            accepted.advance()

    def _begin(self, fd: int) -> Connection | None:
        server = self._server
        accepted: Any = (Accepted if server.by_hand else AcceptedSocket)(
            fd, self._family, self._proto, server
        )
        server.begun(accepted)
        try:
            if server.by_hand:
                accepted.begin(server.connect(server.factory, accepted))
            else:  # what the factory raises is heard here, as by hand; the task's errors are the connection's
                protocol = checked_protocol(server.factory())
                accepted.begin(server.connect(lambda: protocol, accepted))
        except BaseException as exc:
            server.ended(accepted)
            if server.by_hand:
                os.close(fd)
            else:
                accepted.close()
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            self._failed(exc)
            return None
        return accepted  # type: ignore[no-any-return]

    def _acknowledge(self, word: wire.Acked) -> None:
        super()._acknowledge(word)
        fresh, self._fresh = self._fresh, []
        for accepted in fresh:
            accepted.advance()


class BeltServer(asyncio.AbstractServer):
    """As `asyncio.Server` is documented, for listeners of the primary.

    `connect` is the loop's own `connect_accepted_socket`, which counts nothing. `source` says where the
    connections of one of `sockets` come from, once that listens: a program that knows nothing of a cluster
    has sockets of its own in front (`everycore run`).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        session: Session,
        sockets: Iterable[socket.socket],
        factory: Factory,
        terms: Terms,
        connect: Connect,
        *,
        by_hand: bool = False,
        source: Callable[[Any], ClusterSocket] = lambda sock: sock,
    ) -> None:
        self._loop: Any = loop
        self._session = session
        self._sockets: list[socket.socket] | None = list(sockets)
        self._source = source
        self._read: list[ClusterSocket] = []
        self.by_hand = by_hand
        self.is_asyncio = isinstance(loop, asyncio.SelectorEventLoop)
        self._leaves = False
        self.factory = factory
        self.connect: Connect = partial(connect, ssl=terms.ssl, **terms.times, **terms.others)
        self._backlog = terms.backlog
        self._serving = False
        self._forever: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] | None = []
        self._accepted: set[Connection] = set()
        #: For `everycore.limit_connections`.
        self.connection_limit = Limit()
        self._connections = session.connections

    @classmethod
    def begin(
        cls,
        loop: asyncio.AbstractEventLoop,
        session: Session,
        sockets: Iterable[socket.socket],
        factory: Factory,
        terms: Terms,
        connect: Connect,
        **more: Any,
    ) -> BeltServer:
        """A server, which serves already if the terms say so. Raises OSError."""
        server = cls(loop, session, sockets, factory, terms, connect, **more)
        if terms.start:
            try:
                server._start()
            except BaseException:
                server.close()
                raise
        return server

    def __repr__(self) -> str:
        return f"<everycore.BeltServer sockets={self.sockets!r}>"

    # --- its connections, told by `Accepted` --------------------------------------------------------------

    def has(self, accepted: Connection) -> bool:
        """Whether this connection is open."""
        return accepted in self._accepted

    def begun(self, accepted: Connection) -> None:
        """It has been accepted."""
        self._accepted.add(accepted)
        self.connection_limit.open += 1
        self._connections.began()

    def ended(self, accepted: Connection) -> None:
        """It is closed; again: nothing."""
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
        self._session.departure.watch_server(self)
        self._connections.watch_server(self)

    def _take_from(self, source: ClusterSocket) -> None:
        source.setblocking(False)
        reception = BeltReception(self._loop, self._session, source, self)
        if isinstance(source, SharedSocket):
            stamp = getattr(self._loop, "stamp", None)
            if stamp is not None:  # asyncio's loops have a selector of ours
                stamp()
            SharedReception(
                self._loop,
                source,
                reception.give_at_once,
                self.connection_limit,
                reception.turns,
                board=self._session.board,
                connections=self._connections,
                readiness=self._session.readiness,
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
                if self.is_asyncio and _FOREVER_CLOSES_CLIENTS and not self._leaves:
                    self.close_clients()
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

    def leave(self) -> None:
        """Close, for a worker that leaves: the connections that are open go on."""
        self._leaves = True
        self.close()

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
