"""hypercorn as a library: it serves one ASGI application on given sockets, in HTTP/1.1, 2 and 3.

`HypercornEngine.serve` runs from the first connection to the last, as `engines.Engine` does for uvicorn.
Invariant: hypercorn's signal handlers are not installed, and hypercorn is told to stop only when nothing is
left that it would cut off.

Facts (hypercorn 0.17 and 0.18): `serve` opens the sockets that `Config.create_sockets` returns, and awaits
the shutdown trigger once it listens. It always runs the application's lifespan, so this engine answers that
all is well. Once told to stop, it closes idle connections at once, and resets new HTTP/2 requests. A request
beyond `keep_alive_max_requests` of an HTTP/2 connection (1000 by default) gets no answer. If an application
does not read the body of its request, hypercorn fails and ends the connection (HTTP/2), or waits for the body
for ever.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from everycore.servers.asgi import Asgi, Receive, Scope, Send
from everycore.servers.binding import open_sockets
from everycore.servers.binds import parse_binds
from everycore.servers.departing import FIRST_BYTE, Departing, Exit
from everycore.servers.draining import WITHOUT_BODY, Draining, DrainingApp
from everycore.servers.engine_arguments import HEADERS, split_headers
from everycore.servers.exchanges import RequestBody
from everycore.servers.hypercorn_options import QUIC, attributes
from everycore.servers.loading import CannotBootError, words
from everycore.servers.manners import Manners
from everycore.servers.underway import UnderWay

try:
    import hypercorn.asyncio
    from hypercorn.config import Config, Sockets
except ImportError:
    raise CannotBootError("--engine hypercorn needs hypercorn: pip install 'everycore[hypercorn]'") from None
from everycore.foreign.hypercorn_internals import capabilities, connection_of, go_away

#: How long hypercorn itself may wait when it stops, in seconds: by then there is nothing left to wait for.
_NOTHING_LEFT: Final = 0.1
#: The part of the grace for which a GOAWAY waits for an idle moment, and its upper limit in seconds.
_IDLE_PART: Final = 0.25
_MOST_IDLE: Final = 5.0
_ERRORS: Final = "hypercorn.error"


class _Config(Config):
    """hypercorn's configuration, with given sockets and additional headers."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets = Sockets([], [], [])
        self.headers: list[tuple[bytes, bytes]] = []

    def create_sockets(self) -> Sockets:
        return self.sockets

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        usual = super().response_headers(protocol)
        if not self.headers:
            return usual
        names = {name for name, _ in self.headers}
        return [*(header for header in usual if header[0] not in names), *self.headers]


class HypercornEngine:
    """One application, served once. The arguments and the names of options are those of `engines.Engine`.

    access_log: ignored, because hypercorn itself logs no requests here.
    """

    def __init__(
        self,
        app: Asgi,
        *,
        access_log: bool,
        spread: float | None,
        options: Mapping[str, Any],
    ) -> None:
        self._draining = Draining()
        self._spread = spread
        self._under_way = UnderWay()
        self._app = Manners(DrainingApp(app, self._draining), options)
        self._quic: Sequence[str] = options.get(QUIC, ())
        self._http2 = _Http2(self._draining) if capabilities().goaway else None
        try:
            self._config = _config(options)
            self._config.create_ssl_context()
        except (Exception, SystemExit) as error:  # the user's options: report its words, no traceback
            raise CannotBootError(f"hypercorn refuses its options: {words(error)}") from None

    async def serve(
        self, sockets: Sequence[socket.socket], on_serving: Callable[[], None], exit: Exit
    ) -> None:
        """As `engines.Engine.serve`."""
        is_over = asyncio.Event()

        async def until_over() -> None:  # hypercorn awaits this once it listens
            on_serving()
            await is_over.wait()

        self._config.sockets = self._opened(sockets)
        app: Any = self._serve_one
        serving = asyncio.ensure_future(
            hypercorn.asyncio.serve(app, self._config, shutdown_trigger=until_over, mode="asgi")
        )
        leaving = asyncio.ensure_future(self._leave(exit, is_over))
        try:
            await asyncio.wait((serving, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                leaving.result()
                await asyncio.wait((serving,), timeout=2 * _NOTHING_LEFT)
            if serving.done():
                serving.result()
        finally:
            leaving.cancel()
            serving.cancel()
            await asyncio.wait((leaving, serving), timeout=_NOTHING_LEFT)

    def _opened(self, sockets: Sequence[socket.socket]) -> Sockets:
        listening = list(sockets)
        if not self._config.ssl_enabled:
            return Sockets([], listening, [])
        datagrams = open_sockets(parse_binds(self._quic, "--quic-bind"), kind=socket.SOCK_DGRAM)
        ports = {sock.getsockname()[1]: None for sock in datagrams}
        self._config.alt_svc_headers = [f'h3=":{port}"; ma=3600' for port in ports]
        return Sockets(listening, [], datagrams)

    async def _leave(self, exit: Exit, is_over: asyncio.Event) -> None:
        departing = Departing(
            exit,
            self._draining,
            None,
            keep_alive=self._config.keep_alive_timeout,
            spread=self._spread,
            under_way=self._under_way,
        )
        loop = asyncio.get_running_loop()
        await exit.asked()
        if self._http2 is not None:
            self._http2.leave(exit.deadline - loop.time())
        if not exit.spares_idle:  # a person waits for the exit: hypercorn then closes idle connections
            loop.call_later(FIRST_BYTE, is_over.set)
        self._config.graceful_timeout = max(exit.deadline - loop.time(), _NOTHING_LEFT)
        await departing.run()
        self._config.graceful_timeout = _NOTHING_LEFT
        is_over.set()

    # --- requests -----------------------------------------------------------------------------------------

    async def _serve_one(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _say_all_is_well(receive, send)
            return
        connection = None
        if self._http2 is not None and scope["http_version"] == "2":
            connection = self._http2.began(send)
        task = self._under_way.begin(scope)
        try:
            if scope["type"] == "http" and scope["method"] not in WITHOUT_BODY:
                await self._read_and_serve(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            self._under_way.end(task)
            if connection is not None and self._http2 is not None:
                self._http2.ended(connection)

    async def _read_and_serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, reading its whole body before the answer ends: hypercorn fails otherwise."""
        body = RequestBody(receive)

        async def send_whole(message: Any) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if is_last and not body.is_read:
                await send({**message, "more_body": True})
                await body.skip()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        try:
            await self._app(scope, body.receive, send_whole)
        except Exception:  # hypercorn answers it with an error
            await body.skip()
            raise


class _Http2:
    """The HTTP/2 connections that have had a request. It tells their clients when the worker leaves.

    A client is told while its connection has no request under way, because some clients (httpcore) abandon
    their requests on a GOAWAY. A client that is never idle is told all the same, after a while.
    """

    def __init__(self, draining: Draining) -> None:
        self._draining = draining
        #: The number of requests under way, by connection.
        self._counts: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._told: weakref.WeakSet[Any] = weakref.WeakSet()
        self._leaves = self._is_late = False

    def began(self, send: Send) -> Any:
        """A request has begun. Returns its connection, or None if that is not HTTP/2."""
        connection = connection_of(send)
        if connection is not None:
            self._counts[connection] = self._counts.get(connection, 0) + 1
            if self._is_late:
                self._tell(connection)
        return connection

    def ended(self, connection: Any) -> None:
        """A request on this connection has ended."""
        self._counts[connection] -= 1
        if self._leaves and not self._counts[connection]:
            self._tell(connection)

    def leave(self, seconds: float) -> None:
        """The worker leaves, and has `seconds` for it: tell each client, as soon as it is idle."""
        self._leaves = True
        for connection, count in list(self._counts.items()):
            if not count:
                self._tell(connection)
        asyncio.get_running_loop().call_later(min(max(seconds, 0.0) * _IDLE_PART, _MOST_IDLE), self._tell_all)

    def _tell_all(self) -> None:
        self._is_late = True
        for connection in list(self._counts):
            self._tell(connection)

    def _tell(self, connection: Any) -> None:
        if connection not in self._told:
            self._told.add(connection)
            self._draining.run(go_away(connection))


async def _say_all_is_well(receive: Receive, send: Send) -> None:
    """Answer hypercorn's lifespan. everycore runs the application's own: see servers/lifespan.py."""
    kind = ""
    while kind != "lifespan.shutdown":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})


def _config(options: Mapping[str, Any]) -> _Config:
    config = _Config()
    for name, value in attributes(options).items():
        setattr(config, name, value)
    if config.verify_mode is not None:
        config.verify_mode = ssl.VerifyMode(config.verify_mode)
    config.headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in split_headers(options.get(HEADERS, ()))
    ]
    config.keep_alive_max_requests = sys.maxsize
    config.errorlog = logging.getLogger(_ERRORS)
    config.accesslog = None  # `ops.access_log` logs the requests of every engine
    return config
