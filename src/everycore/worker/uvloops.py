"""The uvloop event loop whose servers listen through the primary. Imported only where uvloop is wanted.

Job: `create_server` and `create_unix_server` ask the primary and return a `BeltServer`;
`create_datagram_endpoint` shares its socket. Must not import the primary's side.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvloop

from everycore.worker import datagrams, resolving
from everycore.worker.beltserver import BeltServer
from everycore.worker.clustersocket import ClusterSocket
from everycore.worker.uvstamps import Stamps

if TYPE_CHECKING:
    from everycore.worker.context import WorkerContext

#: uvloop's own methods: `uvloop.Loop` adds nothing to its base class, and may be patched.
_Native: Final[Any] = uvloop.Loop.__mro__[1]


class ClusterUvloop(uvloop.Loop):
    """uvloop's loop; in a worker, its servers listen through the primary.

    Its methods name their base class, so that `worker.intercept_uvloop` can put some into `uvloop.Loop`.
    """

    _everycore: WorkerContext

    def __init__(self, context: WorkerContext) -> None:
        super().__init__()
        self._everycore = context

    def stamp(self) -> None:
        """Note on the board from now on whether this loop waits for events; again: nothing."""
        if "_stamps" not in self.__dict__:
            try:
                self._stamps = Stamps(self, self._everycore.board)
            except (OSError, AttributeError):
                return  # its libuv is out of reach

    def close(self) -> None:
        """As `loop.close`."""
        stamps = None if self.is_running() else self.__dict__.pop("_stamps", None)
        if stamps is not None:
            stamps.close()
        _Native.close(self)

    # --- servers ------------------------------------------------------------------------------------------

    async def create_server(  # type: ignore[override]
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
    ) -> asyncio.AbstractServer:
        """As `loop.create_server`; host and port are listened on by the primary.

        `sock` is used as it is, and `reuse_port` makes the sockets this worker's own.
        """
        nowhere = host is None and port is None
        if resolving.is_ours(sock) and nowhere:
            opened, times = [sock], resolving.checked_ssl(ssl, more)
        elif sock is not None or reuse_port or nowhere:
            server: asyncio.AbstractServer = await _Native.create_server(
                self,
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
        else:
            times = resolving.checked_ssl(ssl, more)
            opened = await resolving.open_tcp(
                self._everycore,
                host,
                port,
                family=family,
                flags=flags,
                backlog=backlog,
                start=start_serving,
            )
        return _serve(self, protocol_factory, opened, ssl, backlog, times, start=start_serving)

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: str | bytes | os.PathLike[str] | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        start_serving: bool = True,
        **more: Any,
    ) -> asyncio.AbstractServer:
        """As `loop.create_unix_server`; the path is bound by the primary, and unlinked by it at the end."""
        if resolving.is_ours(sock) and path is None:
            return await self.create_server(
                protocol_factory, sock=sock, backlog=backlog, ssl=ssl, start_serving=start_serving, **more
            )
        if sock is not None or path is None:
            server: asyncio.AbstractServer = await _Native.create_unix_server(
                self,
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
        opened = await resolving.open_unix(self._everycore, path, backlog=backlog, start=start_serving)
        return _serve(self, protocol_factory, opened, ssl, backlog, times, start=start_serving)

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        local_addr: Any = None,
        remote_addr: Any = None,
        **more: Any,
    ) -> tuple[Any, Any]:
        """As `loop.create_datagram_endpoint`; a bound endpoint's socket is the primary's, shared by all."""
        native = partial(_Native.create_datagram_endpoint, self)
        if not datagrams.goes_through_primary(local_addr, remote_addr, more):
            pair: tuple[Any, Any] = await native(protocol_factory, local_addr, remote_addr, **more)
            return pair
        return await datagrams.open_endpoint(
            self, self._everycore, native, protocol_factory, local_addr, more
        )

    # --- connections that the program opens, or was sent --------------------------------------------------

    async def create_connection(self, *args: Any, **more: Any) -> Any:
        """As `loop.create_connection`; a drain waits for what it opened."""
        pair = await _Native.create_connection(self, *args, **more)
        self._everycore.watch_opened(pair[0])
        return pair

    async def connect_accepted_socket(self, *args: Any, **more: Any) -> Any:
        """As `loop.connect_accepted_socket`; a drain waits for it, wherever the socket came from."""
        pair = await _Native.connect_accepted_socket(self, *args, **more)
        self._everycore.watch_opened(pair[0])
        return pair

    async def create_unix_connection(self, *args: Any, **more: Any) -> Any:
        """As `loop.create_unix_connection`; a drain waits for what it opened."""
        pair = await _Native.create_unix_connection(self, *args, **more)
        self._everycore.watch_opened(pair[0])
        return pair


def native_connect(loop: Any) -> Callable[..., Any]:
    """`connect_accepted_socket` as uvloop has it: what comes off a belt is counted by `BeltServer`."""
    return partial(_Native.connect_accepted_socket, loop)


def _serve(
    loop: ClusterUvloop,
    factory: Callable[[], asyncio.BaseProtocol],
    opened: list[ClusterSocket],
    ssl: Any,
    backlog: int,
    ssl_times: dict[str, float | None],
    *,
    start: bool,
) -> asyncio.AbstractServer:
    """A server on these listeners, whichever way their connections travel."""
    server = BeltServer(loop, loop._everycore, opened, factory, ssl, backlog, ssl_times, native_connect(loop))
    if start:
        try:
            server._start()
        except BaseException:
            server.close()
            raise
    return server
