"""One request, or one WebSocket, in a worker that may leave: see `everycore.servers.draining`.

If the worker leaves, an exchange changes what the application sends. Invariant: an application's message is
passed on, or answered by an error that says why it can't be. It is never dropped in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from everycore.errors import is_caused_by
from everycore.servers.asgi import Receive, Scope, Send

#: How long an answer that closes the connection waits for the rest of the request's body, in seconds. If a
#: connection is closed with unread data, TCP resets it, and the client may never read its answer (RFC 9112
#: 9.6).
LINGER: Final = 5.0
#: "Service Restart" of RFC 6455's registry: the client should reconnect after a random time.
SERVICE_RESTART: Final = 1012
#: The end of an event in a stream (the HTML standard, server-sent events): a blank line.
_EVENT_ENDS: Final = (b"\n\n", b"\r\r", b"\r\n\r\n")
_LONGEST_END: Final = max(map(len, _EVENT_ENDS))
_EVENT_STREAM: Final = b"text/event-stream"
_CLOSE: Final = (b"connection", b"close")


class LongExchange(Protocol):
    """A WebSocket or an event stream, which the worker ends by itself."""

    def end_soon(self) -> None:
        """End the exchange as soon as possible: its time has come."""


class ExchangeOwner(Protocol):
    """The part of `everycore.servers.draining.Draining` that an exchange uses."""

    #: Whether the worker is leaving.
    is_on: bool
    #: Returns whether the connection behind this `send` may live on after the answer.
    keeps: Callable[[Send], bool]
    #: To be called after each complete answer of a leaving worker.
    answered: Callable[[], None]

    def opened(self, ending: LongExchange) -> None:
        """Remember an exchange that does not end by itself."""

    def ended(self, ending: LongExchange) -> None:
        """Forget an exchange that has ended. Does nothing if it is forgotten already."""

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background."""


class EndedByLeavingError(OSError):
    """The application sends on an exchange that this worker has ended.

    It is an OSError, as ASGI 2.4 wants it after a disconnect.
    """

    def __init__(self) -> None:
        super().__init__("this worker is leaving and has ended the stream or the WebSocket")


class RequestBody:
    """The body of a request. It remembers whether the application has read it."""

    __slots__ = ("_receive", "is_read")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_read = False

    async def receive(self) -> Any:
        """Return the next message, as the application gets it."""
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self.is_read = True
        return message

    async def skip(self) -> None:
        """Read and drop the rest, for at most `LINGER` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while not self.is_read:
                    await self.receive()


class HttpExchange:
    """A request and its answer. HOT: made for each request, so most have nothing but the class's values."""

    #: The answer, if it is an event stream.
    stream: EventStream | None = None
    _body: RequestBody | None = None
    _closes = False

    def __init__(self, worker: ExchangeOwner, scope: Scope, send: Send) -> None:
        self._worker = worker
        self._scope = scope
        self._raw = send

    def watch_body(self, receive: Receive) -> Receive:
        """Watch what the application reads. Returns the `receive` to give it."""
        self._body = RequestBody(receive)
        return self._body.receive

    def send(self, message: Any) -> Awaitable[None]:
        """As the engine's `send`. HOT."""
        if self._worker.is_on:
            return self._send_last(message)
        if self.stream is not None:
            return self.stream.send(message)
        if message["type"] == "http.response.start" and _is_event_stream(message):
            self.stream = EventStream(self._worker, self._raw)
        return self._raw(message)

    async def _send_last(self, message: Any) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self._ends_by_header and not self._worker.keeps(self._raw):
                message = _closing(message)
                self._closes = True
            await self._raw(message)
            if _is_event_stream(message):
                self.stream = EventStream(self._worker, self._raw)
            return
        if self.stream is not None:
            await self.stream.send(message)
        elif kind == "http.response.body" and not message.get("more_body", False):
            await self._send_end(message)
            self._worker.answered()
        else:
            await self._raw(message)

    @property
    def _ends_by_header(self) -> bool:
        """Whether a header can end the connection. HTTP/2 and 3 have a frame for that (RFC 9113 8.2.2)."""
        return str(self._scope.get("http_version", "1.1")).startswith("1")

    async def _send_end(self, message: Any) -> None:
        if self._closes and self._body is not None and not self._body.is_read:
            await self._raw({**message, "more_body": True})
            await self._body.skip()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._raw(message)

    def explains(self, error: BaseException) -> bool:
        """Whether `error` is the application's reaction to the end of its exchange."""
        return self.stream is not None and self.stream.is_ended and is_caused_by(error, EndedByLeavingError)

    def finish(self) -> None:
        """The application has returned."""
        if self.stream is not None:
            self._worker.ended(self.stream)


class EventStream:
    """An answer of type text/event-stream. It ends between two events once its time has come."""

    __slots__ = ("_is_busy", "_is_due", "_raw", "_tail", "_worker", "is_ended")

    def __init__(self, worker: ExchangeOwner, send: Send) -> None:
        self._worker = worker
        self._raw = send
        self._is_busy = False
        self._is_due = False
        #: The last bytes sent. The blank line that ends an event may come in parts.
        self._tail = b""
        self.is_ended = False
        worker.opened(self)

    async def send(self, message: Any) -> None:
        """As the engine's `send`. Raises EndedByLeavingError."""
        if self.is_ended:
            raise EndedByLeavingError
        self._is_busy = True
        try:
            await self._raw(message)
        finally:
            self._is_busy = False
        body = message.get("body", b"")
        if body:
            self._tail = (self._tail + bytes(body[-_LONGEST_END:]))[-_LONGEST_END:]
        if not message.get("more_body", False):
            self._worker.ended(self)
            if self._worker.is_on:
                self._worker.answered()
        elif self._is_due and self._is_whole:
            await self._end()

    @property
    def _is_whole(self) -> bool:
        """Whether every event that was begun is complete."""
        return not self._tail or self._tail.endswith(_EVENT_ENDS)

    def end_soon(self) -> None:
        """End the stream now, or after the event that is being sent."""
        self._is_due = True
        if self._is_whole and not self._is_busy and not self.is_ended:
            self._worker.run(self._end())

    async def _end(self) -> None:
        if self.is_ended:
            return
        self.is_ended = True
        self._worker.ended(self)
        # For the engine the answer is complete: it reports that to an application that waits for it.
        await self._raw({"type": "http.response.body", "body": b"", "more_body": False})
        self._worker.answered()


class WebSocketExchange:
    """A WebSocket. It is closed with 1012 once its time has come."""

    __slots__ = ("_is_closed_by_app", "_raw", "_worker", "is_ended")

    def __init__(self, worker: ExchangeOwner, send: Send) -> None:
        self._worker = worker
        self._raw = send
        self._is_closed_by_app = False
        self.is_ended = False

    async def send(self, message: Any) -> None:
        """As the engine's `send`. Raises EndedByLeavingError."""
        kind = message["type"]
        if self.is_ended:
            if kind == "websocket.close":
                return  # that is what the application wants
            raise EndedByLeavingError
        if kind == "websocket.close":
            self._is_closed_by_app = True
            self._worker.ended(self)
        await self._raw(message)
        if kind == "websocket.accept":
            self._worker.opened(self)

    def end_soon(self) -> None:
        """Close the WebSocket now."""
        if not self.is_ended and not self._is_closed_by_app:
            self.is_ended = True
            self._worker.run(self._close())

    async def _close(self) -> None:
        # The client may have gone in the meantime. Then there is no one to tell.
        with contextlib.suppress(OSError, RuntimeError):
            await self._raw({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "service restart"})

    def explains(self, error: BaseException) -> bool:
        """As `HttpExchange.explains`."""
        return self.is_ended and is_caused_by(error, EndedByLeavingError)

    def finish(self) -> None:
        """As `HttpExchange.finish`."""
        self._worker.ended(self)


def _is_event_stream(message: Any) -> bool:
    for name, value in message.get("headers", ()):
        if name == b"content-type":
            return len(value) >= len(_EVENT_STREAM) and bytes(value[:17]).lower() == _EVENT_STREAM
    return False


def _closing(message: Any) -> Any:
    """The head of an answer, changed to that of the last answer on its connection."""
    headers = [header for header in message.get("headers", ()) if header[0].lower() != b"connection"]
    return {**message, "headers": [*headers, _CLOSE]}
