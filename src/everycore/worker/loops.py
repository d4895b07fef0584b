"""The asyncio event loop whose servers listen through the primary.

Job: `create_server` and `create_unix_server` ask the primary and return a genuine `asyncio.Server`;
connections come off a belt straight into transports. HOT: `AsyncioReception.give` runs for every connection;
it builds transports without the task and the future that asyncio's own accept loop spends on each (16 against
27 us a connection, measured).

What of asyncio is private here: `_start_serving`, `_make_socket_transport`, `_make_ssl_transport`,
`_add_reader`, and the constructor of `asyncio.Server`. `knows_asyncio` compares their signatures;
should a later Python differ, the sockets still work as plain listening sockets (`ClusterSocket.accept`),
only slower. Must not import the primary's side.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import socket
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from everycore.core import wire
from everycore.system.descriptors import close_all
from everycore.worker import datagrams, resolving
from everycore.worker.clustersocket import ClusterSocket, SharedSocket
from everycore.worker.limits import Limit
from everycore.worker.reception import Reception
from everycore.worker.turns import SharedReception, StampedSelector

if TYPE_CHECKING:
    import ssl as ssl_module

    from everycore.worker.context import WorkerContext

_WAIT_CLOSED_WAITS: Final = sys.version_info >= (3, 12, 1)


class ClusterServer(asyncio.base_events.Server):
    """An `asyncio.Server` whose `wait_closed` waits for connections on every Python.

    Before 3.12.1 it returned at once after `close()`, against its documentation (CPython issue 79033).
    """

    if not _WAIT_CLOSED_WAITS:

        async def wait_closed(self) -> None:
            """Wait until the server is closed and its connections have ended."""
            waiters = self._waiters  # type: ignore[attr-defined]
            if waiters is None:
                return
            waiter = self._loop.create_future()  # type: ignore[attr-defined]
            waiters.append(waiter)
            await waiter


def limit_of(server: Any) -> Limit:
    """The limit of this server's connections, which `everycore.limit_connections` may set."""
    if server is None:
        return Limit()
    limit: Limit | None = getattr(server, "connection_limit", None)
    if limit is None:
        limit = server.connection_limit = Limit()
    return limit


class AsyncioReception(Reception):
    """Gives the connections of one `ClusterSocket` to one server."""

    __slots__ = ("_factory", "_server", "_ssl", "_ssl_times")

    #: The reader callback, `connection_made`, and the first data callback.
    turns = 3
    _loop: Any

    def __init__(
        self,
        loop: Any,
        context: WorkerContext,
        sock: ClusterSocket,
        factory: Callable[[], asyncio.BaseProtocol],
        ssl: ssl_module.SSLContext | None,
        server: Any,
        ssl_times: dict[str, float | None],
    ) -> None:
        super().__init__(loop, context, sock, limit_of(server))
        self._factory = factory
        self._ssl = ssl
        self._server = server
        self._ssl_times = ssl_times

    def give(self, fd: int, peer: Any) -> None:
        """Let the program have the connection `fd`."""
        lease = self._sock.lease
        if lease is None:
            close_all((fd,))
            return
        conn = lease.connections.counted_socket(lease.family, lease.kind, lease.proto, fd, self.limit)
        try:
            conn.setblocking(False)
            conn.carried_by(self._connect(conn, peer))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            conn.close()
            self._failed(exc)

    def _connect(self, conn: socket.socket, peer: Any) -> Any:
        protocol = self._factory()
        extra = {"peername": peer}
        if self._ssl is None:
            return self._loop._make_socket_transport(conn, protocol, extra=extra, server=self._server)
        return self._loop._make_ssl_transport(
            conn,
            protocol,
            self._ssl,
            server_side=True,
            extra=extra,
            server=self._server,
            **self._ssl_times,
        )


def receive(loop: Any, sock: ClusterSocket, context: WorkerContext, reception: AsyncioReception) -> None:
    """Let the connections of `sock` come: from its belt, or from the listener that all share."""
    if isinstance(sock, SharedSocket):
        SharedReception(loop, sock, context, reception.give, reception.limit, reception.turns).begin()
    else:
        loop._add_reader(sock.fileno(), reception.on_readable)
        reception.begin()


class ClusterEventLoop(asyncio.SelectorEventLoop):
    """asyncio's selector loop; in a worker, its servers listen through the primary."""

    if TYPE_CHECKING:  # what typeshed leaves out
        _make_socket_transport: Callable[..., asyncio.Transport]
        _make_ssl_transport: Callable[..., asyncio.Transport]
        _add_reader: Callable[..., asyncio.Handle]

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(StampedSelector(context.board))
        self._context = context

    # --- servers ------------------------------------------------------------------------------------------

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Iterable[str] | None = None,
        port: int | str | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        reuse_port: bool | None = None,
        start_serving: bool = True,
        **more: Any,
    ) -> asyncio.base_events.Server:
        """As `loop.create_server`; host and port are listened on by the primary.

        `sock` is used as it is, and `reuse_port` makes the sockets this worker's own.
        """
        if resolving.is_ours(sock) and host is None and port is None:
            times = resolving.checked_ssl(ssl, more)
            sock.setblocking(False)
            return await self._serve(protocol_factory, [sock], ssl, backlog, times, start=start_serving)
        if sock is not None or reuse_port or (host is None and port is None):
            inherited: Any = super().create_server
            server: asyncio.base_events.Server = await inherited(
                protocol_factory,
                host,
                port,
                family=family,
                flags=flags,
                sock=sock,
                backlog=backlog,
                ssl=ssl,
                reuse_port=reuse_port,
                start_serving=start_serving,
                **more,
            )
            return server
        times = resolving.checked_ssl(ssl, more)
        opened = await resolving.open_tcp(
            self._context, host, port, family=family, flags=flags, backlog=backlog, start=start_serving
        )
        return await self._serve(protocol_factory, opened, ssl, backlog, times, start=start_serving)

    async def create_unix_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: str | bytes | os.PathLike[str] | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        start_serving: bool = True,
        **more: Any,
    ) -> asyncio.base_events.Server:
        """As `loop.create_unix_server`; the path is bound by the primary, and unlinked by it at the end."""
        if sock is not None or path is None:
            if isinstance(sock, ClusterSocket):
                return await self.create_server(
                    protocol_factory, sock=sock, backlog=backlog, ssl=ssl, start_serving=start_serving, **more
                )
            inherited: Any = super().create_unix_server
            server: asyncio.base_events.Server = await inherited(
                protocol_factory,
                path,
                sock=sock,
                backlog=backlog,
                ssl=ssl,
                start_serving=start_serving,
                **more,
            )
            return server
        more.pop("cleanup_socket", None)
        times = resolving.checked_ssl(ssl, more)
        opened = await resolving.open_unix(self._context, path, backlog=backlog, start=start_serving)
        return await self._serve(protocol_factory, opened, ssl, backlog, times, start=start_serving)

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        local_addr: Any = None,
        remote_addr: Any = None,
        **more: Any,
    ) -> tuple[Any, Any]:
        """As `loop.create_datagram_endpoint`; a bound endpoint's socket is the primary's, shared by all."""
        inherited: Any = super().create_datagram_endpoint
        if not datagrams.goes_through_primary(local_addr, remote_addr, more):
            pair: tuple[Any, Any] = await inherited(protocol_factory, local_addr, remote_addr, **more)
            return pair
        return await datagrams.open_endpoint(
            self, self._context, inherited, protocol_factory, local_addr, more
        )

    async def _serve(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        listeners: list[ClusterSocket],
        ssl: Any,
        backlog: int,
        times: dict[str, float | None],
        *,
        start: bool,
    ) -> asyncio.base_events.Server:
        server = ClusterServer(
            self,
            listeners,
            protocol_factory,
            ssl,
            backlog,
            times["ssl_handshake_timeout"],
            times["ssl_shutdown_timeout"],
        )
        if start:
            try:
                # Without the turn of the loop that `start_serving()` takes: in it we might be cancelled, and
                # leave readers of sockets that the caller closes.
                server._start_serving()  # type: ignore[attr-defined]
            except BaseException:
                server.close()
                raise
        return server

    # --- where asyncio would begin to accept --------------------------------------------------------------

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        if not isinstance(sock, ClusterSocket) or not knows_asyncio():
            super()._start_serving(  # type: ignore[misc]
                protocol_factory,
                sock,
                sslcontext,
                server,
                backlog,
                ssl_handshake_timeout,
                ssl_shutdown_timeout,
            )
            if isinstance(sock, ClusterSocket):  # a plain listening socket, to an asyncio that we do not know
                self._context.watch_server(server)
                sock.say(wire.Serve(1))
            return
        times = {
            "ssl_handshake_timeout": ssl_handshake_timeout,
            "ssl_shutdown_timeout": ssl_shutdown_timeout,
        }
        reception = AsyncioReception(self, self._context, sock, protocol_factory, sslcontext, server, times)
        if server is not None:
            self._context.watch_server(server)
        receive(self, sock, self._context, reception)

    # --- connections that the program opens, or was sent --------------------------------------------------

    async def create_connection(self, *args: Any, **more: Any) -> Any:
        """As `loop.create_connection`; a drain waits for what it opened."""
        pair = await super().create_connection(*args, **more)
        self._context.watch_opened(pair[0])
        return pair

    async def connect_accepted_socket(self, *args: Any, **more: Any) -> Any:
        """As `loop.connect_accepted_socket`; a drain waits for it, wherever the socket came from."""
        pair = await super().connect_accepted_socket(*args, **more)
        self._context.watch_opened(pair[0])
        return pair

    async def create_unix_connection(self, *args: Any, **more: Any) -> Any:
        """As `loop.create_unix_connection`; a drain waits for what it opened."""
        pair = await super().create_unix_connection(*args, **more)
        self._context.watch_opened(pair[0])
        return pair


@functools.cache
def knows_asyncio() -> bool:
    """Whether this Python's asyncio has the private parts that the fast road needs, as we know them."""
    loop = asyncio.SelectorEventLoop
    wanted: dict[Any, tuple[str, ...]] = {
        getattr(loop, "_start_serving", None): (
            "protocol_factory",
            "sock",
            "sslcontext",
            "server",
            "backlog",
        ),
        getattr(loop, "_make_socket_transport", None): ("sock", "protocol", "waiter", "extra", "server"),
        getattr(loop, "_make_ssl_transport", None): (
            "rawsock",
            "protocol",
            "sslcontext",
            "waiter",
            "server_side",
        ),
        getattr(loop, "_add_reader", None): ("fd", "callback"),
        asyncio.base_events.Server.__init__: (
            "loop",
            "sockets",
            "protocol_factory",
            "ssl_context",
            "backlog",
        ),
    }
    return all(
        function is not None and tuple(inspect.signature(function).parameters)[1 : 1 + len(names)] == names
        for function, names in wanted.items()
    )
