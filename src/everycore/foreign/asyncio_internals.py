"""The private parts of asyncio that everycore uses.

There are two parts, each with a probe:

* *servers*: `_start_serving` of the selector loop and of `asyncio.Server`, the constructor of the latter,
  `_make_socket_transport` and `_make_ssl_transport`. With them a connection goes from a belt straight into a
  transport of a genuine `asyncio.Server`: 16 us of CPU instead of 27 (measured). Without them
  `worker.loops.beltserver` serves, by `loop.connect_accepted_socket`.
* *selectors*: `_selector` of a loop that the program has made. Without it the policy `shared` can't put such
  a loop's worker in the queue of waiting workers, and each connection wakes all workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import selectors
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from everycore.foreign import probe_parts

_Loop: Final[Any] = asyncio.SelectorEventLoop
_Server: Final[Any] = asyncio.base_events.Server
#: Before 3.12.1 `wait_closed` returned at once, contrary to its documentation (CPython issue 79033).
_WAIT_CLOSED_WAITS: Final = sys.version_info >= (3, 12, 1)
#: The arguments of the loop's `_start_serving` that this module knows. "context" is new in Python 3.15.
_KNOWN: Final = frozenset(
    {"self", "protocol_factory", "sock", "sslcontext", "server", "backlog", "context"}
    | {"ssl_handshake_timeout", "ssl_shutdown_timeout"}
)


class Capabilities(msgspec.Struct, frozen=True):
    """Which private parts of this Python's asyncio pass their probes."""

    servers: bool
    selectors: bool


class ServingArguments(msgspec.Struct, frozen=True):
    """The arguments of asyncio's `_start_serving`: what a server serves when it begins.

    times: the two time-outs of TLS, in seconds, by argument name.
    context: each connection runs in a copy of it; None before Python 3.15.
    """

    factory: Callable[[], asyncio.BaseProtocol]
    sock: Any
    ssl: Any
    server: Any
    times: dict[str, float | None]
    context: contextvars.Context | None


@functools.cache
def capabilities() -> Capabilities:
    """The capabilities of this asyncio, probed once a process with a connection over a socket pair."""
    probes = {"servers": _probe_servers, "selectors": _probe_selectors}
    return Capabilities(**probe_parts("asyncio", _ProbeLoop, probes))


# --- servers ----------------------------------------------------------------------------------------------


def on_start_serving(loop_class: Any, serve: Callable[[Any, ServingArguments], bool]) -> None:
    """Call `serve(loop, serving)` where loops of this class would begin to accept.

    The loop goes asyncio's own way if `serve` returns False, or if an argument is unknown here.
    """
    native = loop_class._start_serving
    signature = inspect.signature(native)

    def _start_serving(self: Any, *args: Any, **kwargs: Any) -> None:
        serving = _read(signature, self, args, kwargs)
        if serving is None or not serve(self, serving):
            native(self, *args, **kwargs)

    loop_class._start_serving = _start_serving


def _read(
    signature: inspect.Signature, loop: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ServingArguments | None:
    """The arguments by name, or None if one of them is unknown here and not the default."""
    given = signature.bind(loop, *args, **kwargs).arguments
    for name in given.keys() - _KNOWN:
        if given[name] != signature.parameters[name].default:
            return None
    times = ("ssl_handshake_timeout", "ssl_shutdown_timeout")
    return ServingArguments(
        given["protocol_factory"],
        given["sock"],
        given.get("sslcontext"),
        given.get("server"),
        {name: given.get(name) for name in times},
        given.get("context"),
    )


def on_stop_serving(loop_class: Any, stop: Callable[[Any, Any], None]) -> None:
    """Call `stop(loop, sock)` before loops of this class stop accepting from `sock`."""
    native = loop_class._stop_serving

    def _stop_serving(self: Any, sock: Any) -> None:
        stop(self, sock)
        native(self, sock)

    loop_class._stop_serving = _stop_serving


def around_start_of_server(context: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    """Let asyncio's servers start listening and accepting within `context()`."""
    native = _Server._start_serving

    def _start_serving(self: Any) -> None:
        with context():
            native(self)

    _Server._start_serving = _start_serving


def make_server(
    server_class: Any,
    loop: asyncio.AbstractEventLoop,
    sockets: Iterable[Any],
    factory: Callable[[], asyncio.BaseProtocol],
    ssl: Any,
    backlog: int,
    times: dict[str, float | None],
) -> Any:
    """A server of `server_class`, a child of `asyncio.Server`, on these sockets. It does not serve yet."""
    return server_class(
        loop,
        list(sockets),
        factory,
        ssl,
        backlog,
        times["ssl_handshake_timeout"],
        times["ssl_shutdown_timeout"],
    )


def start_server(server: Any) -> None:
    """Begin to serve, without the turn of the loop that `start_serving()` takes."""
    server._start_serving()


async def wait_closed(server: Any) -> None:
    """Wait until `server` is closed and its connections have ended, as `Server.wait_closed` is documented."""
    if _WAIT_CLOSED_WAITS:
        await _Server.wait_closed(server)
        return
    waiters = server._waiters
    if waiters is not None:
        waiter = server.get_loop().create_future()
        waiters.append(waiter)
        await waiter


def make_transport(
    loop: Any, sock: socket.socket, protocol: Any, serving: ServingArguments, peer: Any, **context: Any
) -> Any:
    """A transport on an accepted connection. HOT."""
    extra = {"peername": peer}
    if serving.ssl is None:
        return loop._make_socket_transport(sock, protocol, extra=extra, server=serving.server, **context)
    return loop._make_ssl_transport(
        sock,
        protocol,
        serving.ssl,
        server_side=True,
        extra=extra,
        server=serving.server,
        **serving.times,
        **context,
    )


# --- selectors --------------------------------------------------------------------------------------------


def selector_of(loop: Any) -> selectors.BaseSelector | None:
    """The selector in which an asyncio loop waits, or None if that can't be told."""
    found = getattr(loop, "_selector", None)
    # Probe last: a loop of another library does not need it, and the probe takes some milliseconds.
    return found if isinstance(found, selectors.BaseSelector) and capabilities().selectors else None


# --- the probe --------------------------------------------------------------------------------------------


class _ProbeLoop(asyncio.SelectorEventLoop):
    """A loop that remembers what it was asked to serve."""

    def __init__(self) -> None:
        super().__init__(selectors.DefaultSelector())
        self.served: list[ServingArguments] = []

    def serve(self, serving: ServingArguments) -> bool:
        self.served.append(serving)
        return True


class _ProbeSocket(socket.socket):
    """A socket that stands for a listener, and for a connection whose close can be seen."""

    def listen(self, backlog: int = 0, /) -> None:
        pass


class _ProbeProtocol(asyncio.Protocol):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.seen.append(transport.get_extra_info("peername"))

    def data_received(self, data: bytes) -> None:
        self.seen.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.seen.append(exc)
        asyncio.get_running_loop().stop()


def _probe_servers(loop: _ProbeLoop, near: socket.socket, far: socket.socket) -> bool:
    protocol = _ProbeProtocol()
    listener = _ProbeSocket(socket.AF_UNIX)
    server = make_server(_Server, loop, [listener], lambda: protocol, None, 1, dict.fromkeys(_TIMES))
    with listener:
        start_server(server)
        (serving,) = loop.served
        if serving.sock is not listener or serving.server is not server or not server.is_serving():
            return False
        context = {} if serving.context is None else {"context": serving.context}
        conn = _ProbeSocket(fileno=near.detach())
        inspect.signature(_Loop._make_ssl_transport).bind(
            loop, conn, protocol, None, server_side=True, extra={}, server=server, **serving.times, **context
        )
        make_transport(loop, conn, protocol, serving, "peer", **context)
        far.send(b"x")
        far.shutdown(socket.SHUT_WR)
        loop.call_later(_PATIENCE, loop.stop)
        loop.run_forever()
        server.close()
        loop.run_until_complete(asyncio.wait_for(wait_closed(server), _PATIENCE))
        return protocol.seen == ["peer", b"x", None] and conn.fileno() < 0


def _probe_selectors(loop: _ProbeLoop, near: socket.socket, _far: socket.socket) -> bool:
    loop.add_reader(near, loop.stop)
    found: Any = loop._selector  # type: ignore[attr-defined]
    return isinstance(found, selectors.BaseSelector) and near.fileno() in found.get_map()


_TIMES: Final = ("ssl_handshake_timeout", "ssl_shutdown_timeout")
#: The time limit of a probe, in seconds. A probe takes a thousandth of that.
_PATIENCE: Final = 5.0

try:
    on_start_serving(_ProbeLoop, _ProbeLoop.serve)
except AttributeError:  # there is no such method any more: the probe will fail
    pass
