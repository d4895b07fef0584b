"""Where the listeners of a server come from: one decision for every event loop of a worker.

A worker's loop has three ways to make a server, and `placement` chooses one. The loop's own way gets every
argument unchanged, so that a newer Python's arguments need no change here. The other two ways pass a keyword
that is unknown here to `loop.connect_accepted_socket`, for each connection.
"""

from __future__ import annotations

import asyncio
import enum
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from everycore.worker.loops import datagrams, resolving

if TYPE_CHECKING:
    from everycore.worker.session import Session

Factory = Callable[[], asyncio.BaseProtocol]
_TIMES: Final = ("ssl_handshake_timeout", "ssl_shutdown_timeout")


class Placement(enum.Enum):
    """Which process listens for a server."""

    #: This worker, with sockets of its own: everycore is not involved.
    OWN = enum.auto()
    #: The primary, already: the program passes one of the primary's listeners.
    GIVEN = enum.auto()
    #: The primary, once it is asked.
    PRIMARY = enum.auto()


def placement(
    sock: Any, is_ours: Callable[[Any], bool], *, has_address: bool, reuse_port: Any = None
) -> Placement:
    """Which process listens for a server with these arguments.

    Arguments that contradict each other also go to the loop's own way: the loop's error explains them best.
    """
    if sock is not None:
        return Placement.GIVEN if not has_address and is_ours(sock) else Placement.OWN
    return Placement.PRIMARY if has_address and not reuse_port else Placement.OWN


class ServeTerms(msgspec.Struct, frozen=True):
    """How to listen and to serve: the keywords of `create_server` that are known here, and the others.

    times: the two time-outs of TLS, in seconds, by argument name.
    """

    family: int
    flags: int
    backlog: int
    ssl: Any
    times: dict[str, float | None]
    start: bool
    others: dict[str, Any]

    @classmethod
    def of(cls, keywords: dict[str, Any], *, ignored: Sequence[str] = ()) -> ServeTerms:
        """Read the keywords. Raises asyncio's own errors for arguments that contradict each other."""
        rest = {name: value for name, value in keywords.items() if name not in ignored}
        ssl = rest.pop("ssl", None)
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        times = {name: rest.pop(name, None) for name in _TIMES}
        for name, seconds in times.items():
            if seconds is not None and ssl is None:
                raise ValueError(f"{name} is only meaningful with ssl")
        rest.pop("reuse_address", None)  # the primary sets it, as asyncio does by default
        if rest.pop("keep_alive", None):
            raise ValueError(
                "keep_alive is not supported on a listener of the primary; set SO_KEEPALIVE on connections"
            )
        return cls(
            family=rest.pop("family", socket.AF_UNSPEC),
            flags=rest.pop("flags", socket.AI_PASSIVE),
            backlog=rest.pop("backlog", 100),
            ssl=ssl,
            times=times,
            start=rest.pop("start_serving", True),
            others=rest,
        )

    def check(self, connect: Callable[..., Any]) -> None:
        """Raise TypeError for a keyword that the loop's `connect_accepted_socket` does not know either."""
        if not self.others:
            return
        try:
            # The call only binds the arguments: the coroutine is closed before it begins.
            connect(None, None, ssl=self.ssl, **self.times, **self.others).close()
        except TypeError:
            raise TypeError(f"unexpected arguments: {', '.join(self.others)}") from None


class Listeners(Protocol):
    """How a program gets the primary's listeners, and the server that serves on them."""

    def is_ours(self, sock: Any) -> bool:
        """Whether `sock` is a stream listener of the primary."""
        ...

    async def open_tcp(self, loop: Any, host: Any, port: Any, terms: ServeTerms) -> Sequence[socket.socket]:
        """A listener for every address; no listener if an address is not for the primary. Raises OSError."""
        ...

    async def open_unix(
        self, loop: Any, path: str | bytes | os.PathLike[str], terms: ServeTerms
    ) -> Sequence[socket.socket]:
        """A list of one socket, bound to the path by the primary or by this worker. Raises OSError."""
        ...

    def connect(self, loop: Any) -> Callable[..., Any]:
        """The loop's own `connect_accepted_socket`, which does not count connections."""
        ...

    def serve(
        self, loop: Any, factory: Factory, opened: Sequence[Any], terms: ServeTerms
    ) -> asyncio.AbstractServer:
        """A server on these listeners. It serves already if the terms say so."""
        ...


def checked_protocol(protocol: Any) -> Any:
    """Return `protocol`. Raises TypeError if it is not a protocol.

    asyncio would find that out while it makes the transport. By then loop and server know the transport by
    its descriptor. After it is closed, the next connections would find that number still taken for in use.
    """
    if not hasattr(protocol, "connection_made"):
        raise TypeError(f"the protocol factory returned {protocol!r}, which is not a protocol")
    return protocol


Native = Callable[..., Awaitable[Any]]


async def create_server(
    listeners: Listeners,
    loop: Any,
    native: Native,
    factory: Factory,
    host: Any,
    port: Any,
    *,
    sock: Any,
    reuse_port: Any,
    **keywords: Any,
) -> Any:
    """As `loop.create_server`; `native` is the loop's own."""
    has_address = host is not None or port is not None
    where = placement(sock, listeners.is_ours, has_address=has_address, reuse_port=reuse_port)
    if where is not Placement.OWN:
        terms = ServeTerms.of(keywords)
        terms.check(listeners.connect(loop))
        opened = [sock] if where is Placement.GIVEN else await listeners.open_tcp(loop, host, port, terms)
        if opened:
            return listeners.serve(loop, factory, opened, terms)
    return await native(factory, host, port, sock=sock, reuse_port=reuse_port, **keywords)


async def create_unix_server(
    listeners: Listeners,
    loop: Any,
    native: Native,
    factory: Factory,
    path: Any,
    *,
    sock: Any,
    **keywords: Any,
) -> Any:
    """As `loop.create_unix_server`; the primary binds the path, and unlinks it at the end."""
    where = placement(sock, listeners.is_ours, has_address=bool(path))
    if where is not Placement.OWN:
        terms = ServeTerms.of(keywords, ignored=("cleanup_socket",))
        terms.check(listeners.connect(loop))
        opened = [sock] if where is Placement.GIVEN else await listeners.open_unix(loop, path, terms)
        if all(map(listeners.is_ours, opened)):
            return listeners.serve(loop, factory, opened, terms)
        path, (sock,) = None, opened  # this worker has bound it: the address is not for the primary
    return await native(factory, path, sock=sock, **keywords)


class ClusteredLoop:
    """The common part of the loops of a program that imports everycore. It precedes the loop's own class.

    A drain waits for the connections that the loop has accepted and for those that it was given.
    """

    _everycore: Session
    _listeners: Listeners

    async def create_server(
        self,
        protocol_factory: Factory,
        host: str | Iterable[str] | None = None,
        port: int | str | None = None,
        *,
        sock: socket.socket | None = None,
        reuse_port: bool | None = None,
        **keywords: Any,
    ) -> Any:
        """As `loop.create_server`, but the primary listens on host and port.

        `sock` is used as it is, and `reuse_port` makes the sockets this worker's own.
        """
        own: Any = super()
        return await create_server(
            self._listeners,
            self,
            own.create_server,
            protocol_factory,
            host,
            port,
            sock=sock,
            reuse_port=reuse_port,
            **keywords,
        )

    async def create_unix_server(
        self,
        protocol_factory: Factory,
        path: str | bytes | os.PathLike[str] | None = None,
        *,
        sock: socket.socket | None = None,
        **keywords: Any,
    ) -> Any:
        """As `loop.create_unix_server`, but the primary binds the path, and unlinks it at the end."""
        own: Any = super()
        return await create_unix_server(
            self._listeners, self, own.create_unix_server, protocol_factory, path, sock=sock, **keywords
        )

    async def create_datagram_endpoint(
        self, protocol_factory: Factory, local_addr: Any = None, remote_addr: Any = None, **keywords: Any
    ) -> tuple[Any, Any]:
        """As `loop.create_datagram_endpoint`, but a bound endpoint uses the primary's shared socket."""
        own: Any = super()
        loop: Any = self
        if datagrams.goes_through_primary(local_addr, remote_addr, keywords):
            return await datagrams.open_endpoint(
                loop,
                self._everycore,
                own.create_datagram_endpoint,
                protocol_factory,
                local_addr,
                keywords,
            )
        pair: tuple[Any, Any] = await own.create_datagram_endpoint(
            protocol_factory, local_addr, remote_addr, **keywords
        )
        return pair

    async def create_connection(self, *args: Any, **keywords: Any) -> Any:
        """As `loop.create_connection`. A drain waits for it if the socket came over the channel."""
        own: Any = super()
        pair = await own.create_connection(*args, **keywords)
        return self._counted(pair) if self._came_over_the_channel(keywords) else pair

    async def create_unix_connection(self, *args: Any, **keywords: Any) -> Any:
        """As `loop.create_unix_connection`. A drain waits for it if the socket came over the channel."""
        own: Any = super()
        pair = await own.create_unix_connection(*args, **keywords)
        return self._counted(pair) if self._came_over_the_channel(keywords) else pair

    async def connect_accepted_socket(self, *args: Any, **keywords: Any) -> Any:
        """As `loop.connect_accepted_socket`. A drain waits for it wherever the socket came from."""
        own: Any = super()
        return self._counted(await own.connect_accepted_socket(*args, **keywords))

    def close(self) -> None:
        """As `loop.close`."""
        own: Any = super()
        own.close()
        self._everycore.heartbeat.end(self)

    def _came_over_the_channel(self, keywords: dict[str, Any]) -> bool:
        return keywords.get("sock") in self._everycore.handles

    def _counted(self, pair: Any) -> Any:
        sock = pair[0].get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            self._everycore.connections.watch_file(sock.fileno(), pair[0])
        return pair

    def connect_uncounted(self, *args: Any, **keywords: Any) -> Any:
        """As `loop.connect_accepted_socket`, for a server that counts its connections itself."""
        own: Any = super()
        return own.connect_accepted_socket(*args, **keywords)


class FromPrimary:
    """Listeners for a program that imports everycore. The worker asks the primary for them by the channel."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def is_ours(self, sock: Any) -> bool:
        """As `Listeners.is_ours`."""
        return resolving.is_ours(sock)

    def connect(self, loop: Any) -> Callable[..., Any]:
        """As `Listeners.connect`."""
        connect: Callable[..., Any] = loop.connect_uncounted
        return connect

    async def open_tcp(self, loop: Any, host: Any, port: Any, terms: ServeTerms) -> Sequence[socket.socket]:
        """As `Listeners.open_tcp`."""
        return await resolving.open_tcp(
            self._session,
            host,
            port,
            family=terms.family,
            flags=terms.flags,
            backlog=terms.backlog,
            start=terms.start,
        )

    async def open_unix(
        self, loop: Any, path: str | bytes | os.PathLike[str], terms: ServeTerms
    ) -> Sequence[socket.socket]:
        """As `Listeners.open_unix`."""
        return await resolving.open_unix(self._session, path, backlog=terms.backlog, start=terms.start)
