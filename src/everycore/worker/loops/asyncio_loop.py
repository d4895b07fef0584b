"""The asyncio event loop whose servers listen through the primary.

`create_server` and `create_unix_server` ask the primary and return a genuine `asyncio.Server`. Connections
come off a belt straight into transports. HOT: `AsyncioGiver.give` runs for every connection. It builds
transports without the task and the future that asyncio's own accept loop spends on each.

If `foreign.asyncio_internals` does not know this Python's asyncio, or does not know a keyword, `BeltServer`
serves instead.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from everycore.foreign import asyncio_internals
from everycore.foreign.asyncio_internals import ServingArguments
from everycore.system.descriptors import close_all
from everycore.worker.connections.counted import CountedSocket
from everycore.worker.connections.limits import ConnectionLimit
from everycore.worker.connections.reception import tell_failed
from everycore.worker.connections.shared_reader import StampedSelector
from everycore.worker.listening.clustersocket import ClusterSocket
from everycore.worker.loops.beltserver import BeltServer
from everycore.worker.loops.clustered import ClusteredLoop, Factory, FromPrimary, ServeTerms, checked_protocol
from everycore.worker.loops.reading import begin_reading

if TYPE_CHECKING:
    from everycore.worker.connections.ledger import Ledger
    from everycore.worker.session import Session


class ClusterServer(asyncio.base_events.Server):
    """An `asyncio.Server` that behaves the same on every Python, and that a leaving worker can close."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: For `everycore.limit_connections`.
        self.connection_limit = ConnectionLimit()
        self._is_forever = False
        self._spares_clients = False

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its connections have ended."""
        await asyncio_internals.wait_closed(self)

    async def serve_forever(self) -> None:
        """As `asyncio.Server.serve_forever`."""
        self._is_forever = True
        try:
            await super().serve_forever()
        finally:
            self._is_forever = False

    def leave(self) -> None:
        """Close the server because the worker leaves. Open connections go on.

        Closing ends `serve_forever`, which from Python 3.14 on closes the clients: this prevents that.
        """
        self._spares_clients = self._is_forever
        self.close()

    if hasattr(asyncio.base_events.Server, "close_clients"):  # Python 3.13

        def close_clients(self) -> None:
            """Close every open connection."""
            if self._spares_clients:
                self._spares_clients = False
                return
            super().close_clients()  # type: ignore[misc] # mypy checks against Python 3.11


def limit_of(server: Any) -> ConnectionLimit:
    """The limit on this server's connections, which `everycore.limit_connections` may set."""
    if server is None:
        return ConnectionLimit()
    limit: ConnectionLimit | None = getattr(server, "connection_limit", None)
    if limit is None:  # a server that asyncio made, for a program that knows nothing of a cluster
        limit = server.connection_limit = ConnectionLimit()
    return limit


class AsyncioGiver:
    """Gives the connections of one `ClusterSocket` to one asyncio server."""

    __slots__ = ("_ledger", "_limit", "_loop", "_serving", "_sock", "turns")

    def __init__(
        self,
        loop: Any,
        sock: ClusterSocket,
        ledger: Ledger,
        limit: ConnectionLimit,
        serving: ServingArguments,
    ) -> None:
        #: The reader callback, `connection_made`, and the first data callback.
        self.turns = 3
        self._loop = loop
        self._sock = sock
        self._ledger = ledger
        self._limit = limit
        self._serving = serving

    def give(self, fd: int, peer: Any) -> None:
        """As `Giver.give`."""
        grant = self._sock.grant
        if grant is None:
            close_all((fd,))
            return
        conn = CountedSocket(grant.family, grant.kind, grant.proto, fd, self._ledger, self._limit)
        try:
            conn.setblocking(False)
            conn.peer = peer
            context = self._serving.context
            if context is None:
                transport = self._connect(conn, peer)
            else:
                context = context.copy()
                transport = context.run(self._connect, conn, peer, context=context)
            conn.carried_by(transport)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            conn.close()
            tell_failed(self._loop, exc)

    def advance(self) -> None:
        """As `Giver.advance`. Does nothing: a transport advances by itself."""

    def _connect(self, conn: Any, peer: Any, **context: contextvars.Context) -> Any:
        serving = self._serving
        return asyncio_internals.make_transport(
            self._loop, conn, checked_protocol(serving.factory()), serving, peer, **context
        )


def receive(loop: Any, sock: ClusterSocket, session: Session, serving: ServingArguments) -> None:
    """Give the connections of `sock` to an asyncio server from now on."""
    limit = limit_of(serving.server)
    giver = AsyncioGiver(loop, sock, session.connections, limit, serving)
    begin_reading(loop, sock, giver, limit, session)


class AsyncioListeners(FromPrimary):
    """The primary's listeners, served by asyncio."""

    def serve(
        self, loop: ClusterEventLoop, factory: Factory, opened: Sequence[Any], terms: ServeTerms
    ) -> asyncio.AbstractServer:
        """As `Listeners.serve`."""
        if terms.others or not asyncio_internals.capabilities().servers:
            return BeltServer.begin(loop, self._session, opened, factory, terms, self.connect(loop))
        for sock in opened:
            sock.setblocking(False)
        server: ClusterServer = asyncio_internals.make_server(
            ClusterServer, loop, opened, factory, terms.ssl, terms.backlog, terms.times
        )
        if terms.start:
            try:
                # Start without the turn of the loop that `start_serving()` takes: a cancellation in that turn
                # would leave readers of sockets that the caller closes.
                asyncio_internals.start_server(server)
            except BaseException:
                server.close()
                raise
        return server


class ClusterEventLoop(ClusteredLoop, asyncio.SelectorEventLoop):
    """asyncio's selector loop, whose servers listen through the primary."""

    def __init__(self, session: Session) -> None:
        self.stamped_selector = StampedSelector(session.board)
        super().__init__(self.stamped_selector)
        self._everycore = session
        self._listeners = AsyncioListeners(session)

    def serve(self, serving: ServingArguments) -> bool:
        """Take the connections of the primary's listener, where asyncio would begin to accept.

        Returns False if the socket is not one of the primary's listeners.
        """
        sock = serving.sock
        if not isinstance(sock, ClusterSocket):
            return False
        receive(self, sock, self._everycore, serving)
        if serving.server is not None:
            self._everycore.departure.watch_server(serving.server)
        return True


if asyncio_internals.capabilities().servers:
    asyncio_internals.on_start_serving(ClusterEventLoop, ClusterEventLoop.serve)
