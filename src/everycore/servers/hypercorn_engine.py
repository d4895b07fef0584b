"""hypercorn as a library: serves one ASGI application on sockets that it is given, in HTTP/1.1, 2 and 3.

`HypercornEngine.serve`, from the first connection to the last, as `engines.Engine` for uvicorn. Invariant: no
signal handler of hypercorn's is installed, and hypercorn is told to stop only when nothing is left that it
would cut off. Nothing but this file and `foreign.hypercorn_internals` knows hypercorn.

Facts (hypercorn 0.17 and 0.18): `serve` opens what `Config.create_sockets` returns, and asks for the shutdown
trigger once it listens. It runs the application's lifespan, which can't be switched off: so it is told that
all is well. Told to stop, it closes idle connections at once, and resets new requests of HTTP/2. A request
of an HTTP/2 connection that exceeds `keep_alive_max_requests` (1000, unless we say more) has no answer.
An application that does not read the body of its request ends the connection: hypercorn fails (HTTP/2), or
waits for that for ever.
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
from everycore.servers.engine_options import HEADERS, split_headers
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

#: What hypercorn itself may wait for when it stops, in seconds: by then there is nothing left to wait for.
_NOTHING_LEFT: Final = 0.1
#: For this part of the grace, and no more than so many seconds, a GOAWAY waits for an idle moment.
_IDLE_PART: Final = 0.25
_MOST_IDLE: Final = 5.0
_ERRORS: Final = "hypercorn.error"


class _Config(Config):
    """hypercorn's configuration, with sockets and headers of ours."""

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
    """One application, served once. Arguments as those of `engines.Engine`, options by the same names.

    access_log: of no use here, for hypercorn itself logs no request.
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
        except (Exception, SystemExit) as error:  # the user's options: a word of theirs, not our traceback
            raise CannotBootError(f"hypercorn refuses its options: {words(error)}") from None

    async def serve(
        self, sockets: Sequence[socket.socket], on_serving: Callable[[], None], exit: Exit
    ) -> None:
        """As `engines.Engine.serve`."""
        is_over = asyncio.Event()

        async def until_over() -> None:  # hypercorn asks for this once it listens
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
        if not exit.spares_idle:  # a human waits: from there on hypercorn closes what is idle
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
        """Have the whole body of the request read before the answer ends: hypercorn fails otherwise."""
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
        except Exception:  # which hypercorn answers
            await body.skip()
            raise


class _Http2:
    """The HTTP/2 connections that have had a request: their clients are told when the worker leaves.

    Each is told when it has no request under way, for there are clients that take a GOAWAY for the end of a
    request too (httpcore does); one that is never idle is told all the same, after a while.
    """

    def __init__(self, draining: Draining) -> None:
        self._draining = draining
        #: How many requests are under way.
        self._counts: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._told: weakref.WeakSet[Any] = weakref.WeakSet()
        self._leaves = self._is_late = False

    def began(self, send: Send) -> Any:
        """A request has begun; return its connection."""
        connection = connection_of(send)
        if connection is not None:
            self._counts[connection] = self._counts.get(connection, 0) + 1
            if self._is_late:
                self._tell(connection)
        return connection

    def ended(self, connection: Any) -> None:
        """A request of it has ended."""
        self._counts[connection] -= 1
        if self._leaves and not self._counts[connection]:
            self._tell(connection)

    def leave(self, seconds: float) -> None:
        """The worker leaves, and has so long for it."""
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
    """The application's lifespan is ours, see servers/lifespan.py."""
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
    config.accesslog = None  # requests are told by `ops.access_log`, for every engine
    return config
