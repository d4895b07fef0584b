"""uvloop in a program that knows nothing of a cluster: `everycore run`.

Job: replace methods of `uvloop.Loop` in place, whichever way the program makes its loop (`uvloop.run`,
policies, uvicorn), so that its servers are ours. There is no way round it: uvloop listens and accepts in C,
where `worker.intercept` does not reach. Invariant: the program's sockets are plain ones, which went through
the primary when they were bound; a socket that did not takes uvloop's own road. Nothing reads our channel
here. Must not import the primary's side.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import uvloop

from everycore.worker import datagrams, resolving
from everycore.worker.beltserver import BeltServer
from everycore.worker.clustersocket import ClusterSocket
from everycore.worker.intercept import bind_path, registry
from everycore.worker.uvloops import ClusterUvloop, native_connect

if TYPE_CHECKING:
    from everycore.worker.context import WorkerContext

_Loop: Any = uvloop.Loop
#: uvloop's own methods: `uvloop.Loop` adds nothing to its base class.
_Native: Any = uvloop.Loop.__mro__[1]


def install_on_uvloop(context: WorkerContext) -> None:
    """Once, after `intercept.install`, when the program imports uvloop."""
    _Loop._everycore = context
    _Loop.stamp = ClusterUvloop.stamp
    _Loop.close = ClusterUvloop.close
    for method in (create_server, create_unix_server, create_datagram_endpoint):
        setattr(_Loop, method.__name__, method)


async def create_server(
    self: Any,
    protocol_factory: Any,
    host: Any = None,
    port: Any = None,
    *,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    sock: Any = None,
    backlog: int = 100,
    ssl: Any = None,
    reuse_port: Any = None,
    start_serving: bool = True,
    **more: Any,
) -> Any:
    """As `loop.create_server`."""
    opened: list[Any] = []
    times: dict[str, float | None] = {}
    nowhere = host is None and port is None
    if sock is None and not reuse_port and not nowhere:
        times = resolving.checked_ssl(ssl, dict(more))
        opened = await _bind_all(self, host, port, family, flags)
    elif sock is not None and nowhere and _is_ours(sock):
        times = resolving.checked_ssl(ssl, dict(more))
        opened = [sock]
    if not opened:
        return await _Native.create_server(
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
    return _serve(self, protocol_factory, opened, backlog, ssl, times, start=start_serving)


async def create_unix_server(
    self: Any,
    protocol_factory: Any,
    path: Any = None,
    *,
    sock: Any = None,
    backlog: int = 100,
    ssl: Any = None,
    start_serving: bool = True,
    **more: Any,
) -> Any:
    """As `loop.create_unix_server`; the file is removed by nobody but the primary."""
    if path is not None and sock is None:
        opened, times = _bind_unix(os.fspath(path), ssl, more)
    elif path is None and sock is not None and _is_ours(sock):
        opened, times = sock, _unix_times(ssl, more)
    else:
        return await _Native.create_unix_server(
            self,
            protocol_factory,
            path,
            sock=sock,
            backlog=backlog,
            ssl=ssl,
            start_serving=start_serving,
            **more,
        )
    if not _is_ours(opened):  # an address that is none of the primary's
        return await _Native.create_unix_server(
            self, protocol_factory, sock=opened, backlog=backlog, ssl=ssl, start_serving=start_serving, **more
        )
    return _serve(self, protocol_factory, [opened], backlog, ssl, times, start=start_serving)


async def create_datagram_endpoint(
    self: Any, protocol_factory: Any, local_addr: Any = None, remote_addr: Any = None, **more: Any
) -> Any:
    """As `loop.create_datagram_endpoint`: uvloop binds in C too."""
    if not datagrams.goes_through_primary(local_addr, remote_addr, more):
        return await _Native.create_datagram_endpoint(self, protocol_factory, local_addr, remote_addr, **more)
    family, address = await datagrams.where(self, local_addr, more)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind(address)
        return await _Native.create_datagram_endpoint(self, protocol_factory, sock=sock)
    except BaseException:
        sock.close()
        raise


def _is_ours(sock: Any) -> bool:
    """Whether it is a stream socket that was bound through the primary."""
    return sock.type == socket.SOCK_STREAM and registry.find_any(sock.fileno()) is not None


def _source(sock: socket.socket) -> ClusterSocket:
    """Where the connections of a socket that listens come from."""
    held = registry.find(sock.fileno())
    if held is None or held.inner is None:
        raise OSError(errno.ECANCELED, "the worker is leaving")
    return held.inner


async def _bind_all(
    loop: asyncio.AbstractEventLoop, host: Any, port: Any, family: int, flags: int
) -> list[socket.socket]:
    """A bound socket for every address; none if one is not for the primary: then uvloop shall do as ever."""
    infos = await resolving.resolve(
        loop, resolving.hosts_of(host), port, family=family, kind=socket.SOCK_STREAM, flags=flags
    )
    opened: list[socket.socket] = []
    try:
        for left, (af, kind, address) in enumerate(infos, start=1 - len(infos)):
            sock = socket.socket(af, kind)
            opened.append(sock)
            try:
                _bind(sock, address)
            except OSError as exc:
                if exc.errno not in resolving.NOT_HERE or not (len(opened) > 1 or left):
                    raise
                opened.pop().close()
    except BaseException:
        _close_all(opened)
        raise
    if not all(map(_is_ours, opened)):
        _close_all(opened)
        return []
    return opened


def _bind(sock: socket.socket, address: Any) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind(address)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        text = f"error while attempting to bind on address {address!r}: {reason}"
        raise OSError(exc.errno, text) from None


def _unix_times(ssl: Any, more: dict[str, Any]) -> dict[str, float | None]:
    return resolving.checked_ssl(ssl, {name: more[name] for name in more if name != "cleanup_socket"})


def _bind_unix(path: Any, ssl: Any, more: dict[str, Any]) -> tuple[socket.socket, dict[str, float | None]]:
    times = _unix_times(ssl, more)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bind_path(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock, times


def _close_all(opened: list[socket.socket]) -> None:
    for sock in opened:
        sock.close()


def _serve(
    loop: Any,
    factory: Any,
    opened: list[Any],
    backlog: int,
    ssl: Any,
    times: dict[str, float | None],
    *,
    start: bool,
) -> BeltServer:
    connect = native_connect(loop)
    server = BeltServer(loop, loop._everycore, opened, factory, ssl, backlog, times, connect, _source)
    if start:
        try:
            server._start()
        except BaseException:
            server.close()
            raise
    return server
