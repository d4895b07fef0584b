"""The internal parts of uvicorn that everycore uses. This module is imported only where uvicorn is.

None of these names is documented, though few begin with an underscore. There are two parts, each with a
probe:

* *addresses*: the functions `get_local_addr` and `get_remote_addr` of `uvicorn.protocols.utils`, which
  protocols import by name. They ask the kernel; under uvloop that takes two socket objects and five system
  calls a connection. The transport has asked already, and knows the client that a trusted proxy has named.
* *handover*: the constructor of the HTTP protocols and `server_state`; `cycle` and its `response_complete`,
  `more_body`, `scope` and `transport`; `timeout_keep_alive`, its task and its handler,
  `_unset_keepalive_if_required`; `pipeline` and `scope` of the httptools protocol, `conn` of the h11 one.
  With them a leaving worker sees which connections are idle, and gives their sockets away. Without them it
  goes by ASGI and by the count of open connections: idle connections end with their next request, or by
  uvicorn's keep-alive time-out.

Facts (uvicorn 0.30 to 0.54): a protocol parses in the same call in which its transport reads. So the kernel
still holds everything that the protocol has not parsed, except for what `is_idle` checks. The keep-alive
timer runs exactly from the end of an answer to the first byte of the next request. A connection that has not
sent a byte has no timer.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import os
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any, Final

import msgspec
import uvicorn

from everycore.foreign import Probe, probe_parts


class Capabilities(msgspec.Struct, frozen=True):
    """Which internal parts of this uvicorn pass their probes."""

    addresses: bool
    handover: bool


@functools.cache
def capabilities() -> Capabilities:
    """The capabilities of this uvicorn, probed once a process with connections over socket pairs."""
    probes: dict[str, Probe] = {"addresses": _probe_addresses, "handover": _probe_handover}
    return Capabilities(**probe_parts("uvicorn", asyncio.new_event_loop, probes))


def is_known(config: uvicorn.Config) -> bool:
    """Whether `Inside` was written for the HTTP protocol of a loaded `config`."""
    return config.http_protocol_class.__module__ in _KNOWN_PROTOCOLS


def use_transport_addresses(config: uvicorn.Config) -> None:
    """Let the protocols of a loaded `config` take addresses from their transports.

    Only uvicorn's own functions are replaced: a user's protocol keeps its own.
    """
    theirs, ours = _their_addresses(), (_local_address, _remote_address)
    for protocol in (config.http_protocol_class, config.ws_protocol_class):
        module = sys.modules.get(getattr(protocol, "__module__", ""))
        for old, new in zip(theirs, ours, strict=True):
            if getattr(module, old.__name__, None) is old:
                setattr(module, old.__name__, new)


def _their_addresses() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    from uvicorn.protocols import utils

    return utils.get_local_addr, utils.get_remote_addr


def _local_address(transport: Any) -> Any:
    """As uvicorn's `get_local_addr`."""
    found = transport.get_extra_info("sockname")
    return found[:2] if type(found) is tuple else _their_addresses()[0](transport)


def _remote_address(transport: Any) -> Any:
    """As uvicorn's `get_remote_addr`."""
    found = transport.get_extra_info("peername")
    return found[:2] if type(found) is tuple else _their_addresses()[1](transport)


class Inside:
    """The connections of one server, seen and steered from inside uvicorn."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server

    # --- looking ------------------------------------------------------------------------------------------

    def connections(self) -> list[Any]:
        """The protocols of the open connections."""
        return list(self._server.server_state.connections)

    def tasks(self) -> list[asyncio.Task[None]]:
        """The tasks in which the application runs."""
        return list(self._server.server_state.tasks)

    def is_idle(self, protocol: Any) -> bool:
        """Whether an HTTP connection is between two requests, and no byte of the next one was read.

        False for a WebSocket; for an answer that is not sent completely; and for a request whose answer came
        before its body.
        """
        transport = getattr(protocol, "transport", None)
        if transport is None or not hasattr(protocol, "timeout_keep_alive_task"):
            return False
        if transport.is_closing() or transport.get_write_buffer_size():
            return False
        cycle = protocol.cycle
        if hasattr(protocol, "pipeline"):
            if cycle is None:
                return protocol.scope is None
            is_over = bool(cycle.response_complete) and not cycle.more_body and not protocol.pipeline
            return is_over and protocol.timeout_keep_alive_task is not None
        conn = protocol.conn
        if conn.trailing_data != (b"", False) or (cycle is not None and not cycle.response_complete):
            return False
        return str(conn.our_state) == "IDLE" and str(conn.their_state) == "IDLE"

    def is_unused(self, protocol: Any) -> bool:
        """Whether an idle connection has not sent a request yet."""
        return protocol.cycle is None

    def has_unread(self, protocol: Any) -> bool:
        """Whether data has arrived on a connection that was not read yet."""
        return _unread(protocol.transport) > 0

    def scope_of(self, protocol: Any) -> Any:
        """The ASGI scope of the request or WebSocket of a connection, or None while it is incomplete."""
        return getattr(protocol, "scope", None)

    def has_more(self, send: Any) -> bool:
        """Whether another request, or part of one, has arrived on the connection behind this `send`."""
        cycle: Any = getattr(send, "__self__", None)
        protocol = _protocol_of(cycle)
        if protocol is None or cycle.more_body:  # with more body, the data is the rest of this request
            return False
        waiting = protocol.pipeline if hasattr(protocol, "pipeline") else protocol.conn.trailing_data[0]
        return bool(waiting) or _unread(protocol.transport) > 0

    def is_plain(self, send: Any) -> bool:
        """Whether the connection behind this `send` is not encrypted, and both sides keep it alive."""
        cycle: Any = getattr(send, "__self__", None)
        protocol = _protocol_of(cycle)
        if protocol is None or not cycle.keep_alive:
            return False
        return protocol.transport.get_extra_info("sslcontext") is None

    def stop_accepting(self) -> None:
        """Close the listeners."""
        for server in self._server.servers:
            server.close()

    # --- acting -------------------------------------------------------------------------------------------

    def take_away(self, protocol: Any) -> int | None:
        """Take an idle connection from uvicorn. Returns its socket as a new descriptor.

        Returns None and changes nothing if that can't be done: the connection is encrypted, or no descriptor
        is free. Whatever the client sends from now on stays in the socket.
        """
        transport = protocol.transport
        sock = transport.get_extra_info("socket")
        if sock is None or transport.get_extra_info("sslcontext") is not None:
            return None
        transport.pause_reading()
        try:
            fd = os.dup(sock.fileno())
        except OSError:
            transport.resume_reading()
            return None
        protocol._unset_keepalive_if_required()
        transport.abort()  # the client does not notice while a copy of the descriptor is open
        return fd

    def close(self, protocol: Any) -> None:
        """End a connection as uvicorn does when it stops: a WebSocket with 1012, an idle one at once."""
        try:
            protocol.shutdown()
        except Exception:  # h11 and wsproto refuse to end a connection in some states
            self.abort(protocol)

    def abort(self, protocol: Any) -> None:
        """Abort a connection."""
        if protocol.transport is not None:
            protocol.transport.abort()

    def new(self) -> Any:
        """Make the protocol of one more HTTP connection."""
        make: Callable[..., Any] = self._server.config.http_protocol_class
        return make(
            config=self._server.config,
            server_state=self._server.server_state,
            app_state=self._server.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )

    def keep_alive(self, protocol: Any) -> None:
        """Start the keep-alive time-out of a connection that was taken over and has sent nothing since."""
        if self.is_unused(protocol) and self.is_idle(protocol):
            protocol.timeout_keep_alive_task = protocol.loop.call_later(
                protocol.timeout_keep_alive, protocol.timeout_keep_alive_handler
            )


def _protocol_of(cycle: Any) -> Any:
    get_protocol = getattr(getattr(cycle, "transport", None), "get_protocol", None)
    protocol = get_protocol() if get_protocol is not None else None
    return protocol if hasattr(protocol, "timeout_keep_alive_task") else None


def _unread(transport: Any) -> int:
    """How many bytes have arrived that were not read."""
    sock = transport.get_extra_info("socket")
    try:
        return int(_INT.unpack(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(_INT.size)))[0])
    except (OSError, AttributeError, ValueError):
        return 0


# --- the probe --------------------------------------------------------------------------------------------


class _WithAddresses:
    """A transport over a socket, both of which know nothing but the addresses."""

    def __init__(self, address: Any) -> None:
        self._known = {"socket": self, "sockname": address, "peername": address}
        self.get_extra_info = self._known.get
        self.getsockname = self.getpeername = lambda: address


def _probe_addresses(_loop: Any, near: socket.socket, _far: socket.socket) -> bool:
    local, remote = _their_addresses()
    known = [("127.0.0.1", 80), ("::1", 80, 0, 0), near.getsockname(), "/a.sock"]
    return all(
        theirs(transport) == ours(transport)
        for transport in map(_WithAddresses, known)
        for theirs, ours in ((local, _local_address), (remote, _remote_address))
    )


async def _probe_app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _probe_handover(loop: Any, near: socket.socket, far: socket.socket) -> bool:
    # `access_log=False` would remove the handlers of uvicorn's access log for good.
    config = uvicorn.Config(_probe_app, interface="asgi3", lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    return bool(
        loop.run_until_complete(asyncio.wait_for(_hand_over(loop, Inside(server), near, far), _PATIENCE))
    )


async def _hand_over(loop: Any, inside: Inside, near: socket.socket, far: socket.socket) -> bool:
    far.setblocking(False)
    first = _quiet(inside.new())
    await loop.connect_accepted_socket(lambda: first, near)
    states = [inside.is_idle(first), inside.is_unused(first), inside.connections() == [first]]
    far.send(b"GET / HTTP/1.1\r\nhost:")
    await _turns()
    states.append(not inside.is_idle(first))
    far.send(b" x\r\n\r\n")
    states.append((await loop.sock_recv(far, 4096)).startswith(b"HTTP/1.1 204"))
    await _turns()
    states += [inside.is_idle(first), not inside.is_unused(first), not inside.tasks()]
    states += [
        inside.scope_of(first)["path"] == "/",
        inside.is_plain(first.cycle.send),
        not inside.has_more(first.cycle.send),
    ]
    fd = inside.take_away(first)
    if fd is None or not all(states):
        return False
    with socket.socket(fileno=fd) as taken:
        await _turns()
        second = _quiet(inside.new())
        await loop.connect_accepted_socket(lambda: second, taken)
        inside.keep_alive(second)
        armed = second.timeout_keep_alive_task is not None
        far.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await loop.sock_recv(far, 4096)
        await _turns()
        inside.close(second)
        await _turns()
        return bool(answer.startswith(b"HTTP/1.1 204") and armed and not inside.connections())


def _quiet(protocol: Any) -> Any:
    protocol.access_log = False  # no client has made the probe's request
    return protocol


async def _turns() -> None:
    for _ in range(_SOME_TURNS):
        await asyncio.sleep(0)


_KNOWN_PROTOCOLS: Final = ("uvicorn.protocols.http.h11_impl", "uvicorn.protocols.http.httptools_impl")
_INT: Final = struct.Struct("i")
#: How many turns a loop needs to read what has arrived, run the callbacks, and close what it was told to.
_SOME_TURNS: Final = 6
#: The time limit of a probe, in seconds. A probe takes a thousandth of that.
_PATIENCE: Final = 5.0
