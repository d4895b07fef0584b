"""A server on belts for an event loop that has no hook for one: uvloop, and an asyncio that is unknown.

It behaves as `asyncio.Server` is documented, and uses `loop.connect_accepted_socket` alone. HOT:
`BeltGiver.give` runs for every connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.trsock import TransportSocket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from everycore.aio.waiting import Waiters, release, wait_among
from everycore.worker.connections.limits import ConnectionLimit
from everycore.worker.connections.reception import tell_failed
from everycore.worker.listening.clustersocket import ClusterSocket, SharedSocket
from everycore.worker.loops.accepted import Accepted, AcceptedConnection, AcceptedSocket
from everycore.worker.loops.clustered import Factory, ServeTerms, checked_protocol
from everycore.worker.loops.reading import begin_reading

if TYPE_CHECKING:
    from everycore.worker.session import Session

Connect = Callable[..., Coroutine[Any, Any, Any]]
#: Whether `asyncio.Server.serve_forever` closes the open connections when it ends.
_FOREVER_CLOSES_CLIENTS: Final = sys.version_info >= (3, 14)


class BeltGiver:
    """Gives the connections of one `ClusterSocket` to one `BeltServer`."""

    __slots__ = ("_family", "_fresh", "_proto", "_server", "turns")

    def __init__(self, sock: ClusterSocket, server: BeltServer) -> None:
        # By hand, it takes the turns of `connection_made` and of the first data callback, which runs while
        # libuv polls. By a task, it takes those of the task's first step, `connection_made`, the descriptor's
        # registration, and the first data callback.
        self.turns = 2 if server.by_hand else 4
        self._family, self._proto = int(sock.family), sock.proto
        self._server = server
        #: Connections that the program was given since the last call of `advance`.
        self._fresh: list[AcceptedConnection] = []

    def give(self, fd: int, peer: Any) -> None:
        """As `Giver.give`; the loop asks for the peer's address itself."""
        server = self._server
        accepted: Any = (Accepted if server.by_hand else AcceptedSocket)(
            fd, self._family, self._proto, server
        )
        try:
            if server.by_hand:
                accepted.begin(server.connect(server.factory, accepted))
            else:
                # The factory is called here, so that its errors are reported as by hand. The task's errors
                # concern the connection alone.
                protocol = checked_protocol(server.factory())
                accepted.begin(server.connect(lambda: protocol, accepted))
        except BaseException as exc:
            accepted.close()
            if server.by_hand:
                os.close(fd)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            tell_failed(server.get_loop(), exc)
        else:
            self._fresh.append(accepted)

    def advance(self) -> None:
        """As `Giver.advance`."""
        fresh, self._fresh = self._fresh, []
        for accepted in fresh:
            accepted.advance()


def _listening(sock: ClusterSocket, backlog: int) -> ClusterSocket:
    sock.listen(backlog)
    return sock


class BeltServer(asyncio.AbstractServer):
    """A server that behaves as `asyncio.Server` is documented, for the primary's listeners.

    `connect` is the loop's own `connect_accepted_socket`, which does not count connections. `source` lets one
    of `sockets` listen with a backlog, and returns the socket from which its connections come: a program that
    knows nothing of a cluster has sockets of its own in front (`everycore run`).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        session: Session,
        sockets: Iterable[socket.socket],
        factory: Factory,
        terms: ServeTerms,
        connect: Connect,
        *,
        by_hand: bool = False,
        source: Callable[[Any, int], ClusterSocket] = _listening,
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
        #: Whether a connection is just a transport of the loop, with a protocol from the factory.
        self._is_plain = by_hand and terms.ssl is None and not terms.others
        self.connect: Connect = partial(connect, ssl=terms.ssl, **terms.times, **terms.others)
        self._backlog = terms.backlog
        self._serving = False
        self._forever: asyncio.Future[None] | None = None
        self._waiters: Waiters | None = deque()
        #: For `everycore.limit_connections`.
        self.connection_limit = ConnectionLimit(on_none=self._end_waits)
        self.ledger = session.connections

    @classmethod
    def begin(
        cls,
        loop: asyncio.AbstractEventLoop,
        session: Session,
        sockets: Iterable[socket.socket],
        factory: Factory,
        terms: ServeTerms,
        connect: Connect,
        **more: Any,
    ) -> BeltServer:
        """Make a server. It serves already if the terms say so. Raises OSError."""
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

    # --- its end ------------------------------------------------------------------------------------------

    def _end_waits(self) -> None:
        """Let `wait_closed` return if the server is closed and no connection is open."""
        if self._sockets is not None or self.connection_limit.open:
            return
        waiters, self._waiters = self._waiters, None
        release(waiters or deque())

    # --- as asyncio.Server --------------------------------------------------------------------------------

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """The listening sockets; none once the server is closed."""
        return tuple(TransportSocket(sock) for sock in self._sockets or ())

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The server's event loop."""
        loop: asyncio.AbstractEventLoop = self._loop
        return loop

    def is_serving(self) -> bool:
        """Whether the server takes connections."""
        return self._serving

    async def start_serving(self) -> None:
        """Take connections. Does nothing if it does already. Raises OSError, and RuntimeError if closed."""
        self._start()
        await asyncio.sleep(0)  # let other tasks run, as asyncio does

    def _start(self) -> None:
        if self._serving:
            return
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._serving = True
        for sock in self._sockets:
            self._take_from(self._source(sock, self._backlog))
        self._session.departure.watch_server(self)

    def _take_from(self, source: ClusterSocket) -> None:
        source.setblocking(False)
        stamp = getattr(self._loop, "stamp", None)
        if isinstance(source, SharedSocket):
            if stamp is not None:  # a worker's asyncio loop has no `stamp`: its selector does the same
                stamp()
        else:
            self._read.append(source)
        begin_reading(
            self._loop,
            source,
            BeltGiver(source, self),
            self.connection_limit,
            self._session,
            factory=self.factory if self._is_plain else None,
        )

    async def serve_forever(self) -> None:
        """Take connections until this call is cancelled, then close the server. `close` cancels it too."""
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
        """Take no more connections; open ones go on. Does nothing if already closed."""
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
        self._end_waits()

    def leave(self) -> None:
        """Close the server because the worker leaves. Open connections go on."""
        self._leaves = True
        self.close()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its connections have ended."""
        if self._waiters is not None:
            await wait_among(self._waiters)

    def close_clients(self) -> None:
        """Close every open connection."""
        self._end_clients(abort=False)

    def abort_clients(self) -> None:
        """Abort every open connection."""
        self._end_clients(abort=True)

    def _end_clients(self, *, abort: bool) -> None:
        for connection in self.ledger.connections_of(self.connection_limit):
            connection.end(abort=abort)
