"""uvloop in a program that knows nothing of a cluster: `everycore run`.

This module replaces methods of `uvloop.Loop` in place, in whatever way the program makes its loop
(`uvloop.run`, policies, uvicorn), so that its servers are everycore's. uvloop listens and accepts in C, where
`intercept.sockets` does not reach. Invariant: the program's sockets are plain sockets that went through the
primary when they were bound. Any other socket takes uvloop's own path. Nothing reads everycore's channel
here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvloop

from everycore.foreign import uvloop_internals
from everycore.worker.intercept.sockets import bind_path, by_our_loop, serves_by_itself
from everycore.worker.intercept.state import registry
from everycore.worker.listening.clustersocket import ClusterSocket
from everycore.worker.loops import clustered, datagrams, resolving
from everycore.worker.loops.beltserver import BeltServer
from everycore.worker.loops.clustered import Factory, ServeTerms
from everycore.worker.loops.uvloop_loop import Stamping

if TYPE_CHECKING:
    from everycore.worker.session import Session

_Loop: Final[Any] = uvloop.Loop
#: uvloop's own methods, which are replaced.
_native: dict[str, Callable[..., Any]] = {}


def install_on_uvloop(session: Session) -> None:
    """Install, once, after `installing.install`, when the program imports uvloop."""
    _Loop._everycore = session
    _Loop._turns = None
    for method in (Stamping.stamp, Stamping.end_stamps):
        setattr(_Loop, method.__name__, method)
    ours: tuple[Any, ...] = (create_server, create_unix_server, create_datagram_endpoint, close)
    for method in ours:
        _native[method.__name__] = getattr(_Loop, method.__name__)
        setattr(_Loop, method.__name__, method)


def close(self: Any) -> None:
    """As `loop.close`."""
    if not self.is_running():
        self.end_stamps()
    _native["close"](self)


async def create_server(
    self: Any,
    protocol_factory: Any,
    host: Any = None,
    port: Any = None,
    *,
    sock: Any = None,
    reuse_port: Any = None,
    **keywords: Any,
) -> Any:
    """As `loop.create_server`."""
    return await clustered.create_server(
        _ProgramListeners(),
        self,
        partial(_serve_by_itself, "create_server", self),
        protocol_factory,
        host,
        port,
        sock=sock,
        reuse_port=reuse_port,
        **keywords,
    )


async def create_unix_server(
    self: Any, protocol_factory: Any, path: Any = None, *, sock: Any = None, **keywords: Any
) -> Any:
    """As `loop.create_unix_server`, but only the primary removes the file."""
    native = partial(_serve_by_itself, "create_unix_server", self)
    return await clustered.create_unix_server(
        _ProgramListeners(), self, native, protocol_factory, path, sock=sock, **keywords
    )


async def _serve_by_itself(name: str, loop: Any, *args: Any, **keywords: Any) -> Any:
    """Make uvloop's own server on the program's own listener: uvloop accepts in C."""
    server = await _native[name](loop, *args, **keywords)
    for sock in server.sockets:
        loop._everycore.connections.watch_listener(sock.fileno())
        if server.is_serving() and sock.family != socket.AF_UNIX:
            serves_by_itself(sock)
    return server


async def create_datagram_endpoint(
    self: Any, protocol_factory: Any, local_addr: Any = None, remote_addr: Any = None, **more: Any
) -> Any:
    """As `loop.create_datagram_endpoint`, because uvloop binds in C too."""
    native = partial(_native["create_datagram_endpoint"], self)
    if not datagrams.goes_through_primary(local_addr, remote_addr, more):
        transport, protocol = await native(protocol_factory, local_addr, remote_addr, **more)
        is_internet = isinstance(local_addr, (tuple, list)) and not remote_addr
        if is_internet and more.get("reuse_port") and local_addr[1]:
            serves_by_itself(transport.get_extra_info("socket"))
        return transport, protocol
    family, address = await datagrams.where(self, local_addr, more)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if more.get("allow_broadcast"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind(address)
        return await native(protocol_factory, sock=sock)
    except BaseException:
        sock.close()
        raise


class _ProgramListeners:
    """Listeners of a program that knows nothing of a cluster: its own sockets, bound through the primary."""

    def is_ours(self, sock: Any) -> bool:
        """As `Listeners.is_ours`."""
        return _is_ours(sock)

    async def open_tcp(self, loop: Any, host: Any, port: Any, terms: ServeTerms) -> Sequence[socket.socket]:
        """As `Listeners.open_tcp`."""
        return await _bind_all(loop, host, port, terms.family, terms.flags)

    async def open_unix(self, loop: Any, path: Any, terms: ServeTerms) -> Sequence[socket.socket]:
        """As `Listeners.open_unix`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bind_path(sock, os.fspath(path))
        except BaseException:
            sock.close()
            raise
        return [sock]

    def connect(self, loop: Any) -> Callable[..., Any]:
        """As `Listeners.connect`. uvloop's own method is not replaced."""
        return partial(_Loop.connect_accepted_socket, loop)

    def serve(
        self, loop: Any, factory: Factory, opened: Sequence[Any], terms: ServeTerms
    ) -> asyncio.AbstractServer:
        """As `Listeners.serve`."""
        return BeltServer.begin(
            loop,
            loop._everycore,
            opened,
            factory,
            terms,
            self.connect(loop),
            by_hand=uvloop_internals.capabilities().connect,
            source=_source,
        )


def _is_ours(sock: Any) -> bool:
    """Whether it is a stream socket that was bound through the primary."""
    return sock.type == socket.SOCK_STREAM and registry.find_any(sock.fileno()) is not None


def _source(sock: socket.socket, backlog: int) -> ClusterSocket:
    """The source of a server's connections, as `BeltServer` calls for it."""
    with by_our_loop():
        sock.listen(backlog)
        intercepted = registry.find(sock.fileno())
        source = None if intercepted is None else intercepted.source()
    if source is None:
        raise OSError(errno.ECANCELED, "the worker is leaving")
    return source


async def _bind_all(
    loop: asyncio.AbstractEventLoop, host: Any, port: Any, family: int, flags: int
) -> list[socket.socket]:
    """Bind a socket for every address. If one is not for the primary, return none: uvloop binds them then."""
    infos = await resolving.resolve(
        loop, resolving.hosts_of(host), port, family=family, kind=socket.SOCK_STREAM, flags=flags
    )
    opened = await resolving.open_all(infos, _bound)
    if not all(map(_is_ours, opened)):
        resolving.close_sockets(opened)
        return []
    return opened


async def _bound(family: int, kind: int, address: Any) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as exc:
            raise resolving.bind_error(exc, address) from None
    except BaseException:
        sock.close()
        raise
    return sock
