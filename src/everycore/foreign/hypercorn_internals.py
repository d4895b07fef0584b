"""The internal parts of hypercorn that everycore uses. This module is imported only where hypercorn is.

There is one probe, *goaway*. The `send` that an application is given is a method of a stream. The stream's
`send` is a method of its HTTP/2 connection, `H2Protocol.stream_send`. The `send` of that connection writes a
`RawData` to the client. With them a leaving worker tells each HTTP/2 client to open its next request
elsewhere. Without them HTTP/2 connections end with their keep-alive time-out, or with the grace.

Facts (hypercorn 0.17 and 0.18): once told to stop, hypercorn resets new requests of an HTTP/2 connection, and
sends GOAWAY after the last answer. It sends nothing to idle connections. h2 can't send GOAWAY and go on: its
state is "closed" from then on. So everycore writes the frame itself: the first of the two of RFC 9113 6.8,
with the highest stream, which lets every request in flight pass.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import msgspec
from hypercorn.events import RawData
from hypercorn.protocol.h2 import H2Protocol
from hyperframe.frame import GoAwayFrame

from everycore.foreign import probe_parts

_HIGHEST_STREAM: Final = 2**31 - 1
_GOAWAY: Final = GoAwayFrame(0, last_stream_id=_HIGHEST_STREAM, error_code=0).serialize()


class Capabilities(msgspec.Struct, frozen=True):
    """Which internal parts of this hypercorn pass their probes."""

    goaway: bool


@functools.cache
def capabilities() -> Capabilities:
    """The capabilities of this hypercorn, probed once a process with a connection over a socket pair."""
    return Capabilities(**probe_parts("hypercorn", asyncio.new_event_loop, {"goaway": _probe_goaway}))


def connection_of(send: Any) -> Any:
    """The HTTP/2 connection behind this `send`, or None if the connection is of another kind."""
    stream = getattr(send, "__self__", None)
    protocol = getattr(getattr(stream, "send", None), "__self__", None)
    return protocol if isinstance(protocol, H2Protocol) else None


async def go_away(connection: Any) -> None:
    """Tell the client to open its next request on a new connection. Requests under way go on."""
    await connection.send(RawData(data=_GOAWAY))


# --- the probe --------------------------------------------------------------------------------------------


def _probe_goaway(loop: Any, near: socket.socket, far: socket.socket) -> bool:
    return bool(loop.run_until_complete(asyncio.wait_for(_converse(near, far), _PATIENCE)))


async def _converse(near: socket.socket, far: socket.socket) -> bool:
    """Make one request whose handler sends GOAWAY before its answer. Returns whether that works."""
    from hypercorn.app_wrappers import ASGIWrapper
    from hypercorn.asyncio.tcp_server import TCPServer
    from hypercorn.asyncio.worker_context import WorkerContext
    from hypercorn.config import Config

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await go_away(connection_of(send))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = Config()
    config.errorlog = None
    reader, writer = await asyncio.open_connection(sock=near)
    context: Any = WorkerContext(None)
    wrapped: Any = ASGIWrapper(app)
    loop = asyncio.get_running_loop()
    server = TCPServer(wrapped, loop, config, context, {}, reader, writer)
    serving = asyncio.ensure_future(server.run())
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    head = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "x")]
    client.send_headers(1, head, end_stream=True)
    far.setblocking(False)
    await loop.sock_sendall(far, client.data_to_send())
    received = b""
    while not received.endswith(_END_OF_STREAM_1):
        received += await loop.sock_recv(far, 4096)
    await context.terminated.set()
    far.shutdown(socket.SHUT_WR)
    await asyncio.wait((serving,))
    return received.count(_GOAWAY) == 1


#: An empty DATA frame of stream 1 that ends it.
_END_OF_STREAM_1: Final = b"\x00\x00\x00\x00\x01\x00\x00\x00\x01"
#: The time limit of a probe, in seconds. A probe takes a hundredth of that.
_PATIENCE: Final = 5.0
