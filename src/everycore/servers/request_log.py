"""Records each request and its answer, in ASGI alone: when it began and ended, and which id it has.

It stands between the engine and the application. The application finds the id in the header X-Request-ID,
whether or not its client has sent one. Invariant: a request is logged once, when the application has sent the
end of its answer, or has returned without one.

HOT: each request costs one object, and each message one more frame.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from everycore.config.access_format import on_one_line
from everycore.core.request_ids import accepted, with_id
from everycore.ops.access_log import Answered, request_id
from everycore.servers.asgi import Asgi, Receive, Scope, Send

#: Characters of a query that are not quoted: all but spaces, unprintable ones, and the quotation mark.
_SAFE: Final = "!#$%&'()*+,/:;<=>?@[]^`{|}"
#: The status of an answer that was not begun: the client left (nginx's number), or the application failed.
_LEFT: Final = 499
_FAILED: Final = 500
#: The messages that end an answer, unless they announce more.
_LAST: Final = frozenset(
    {"http.response.body", "http.response.pathsend", "websocket.http.response.body", "websocket.close"}
)
#: The status of a WebSocket that was accepted, and of one that was refused.
_ACCEPTED: Final = 101
_REFUSED: Final = 403


def new_id() -> str:
    """A unique id for a request: 32 hexadecimal digits."""
    return os.urandom(16).hex()


def _target(path: str, query: bytes) -> str:
    return f"{quote(path)}?{quote(query, safe=_SAFE)}" if query else quote(path)


class RequestLog:
    """An application whose requests are reported to `tell`.

    clock: returns seconds. make_id: returns an id for a request whose client sent no valid one.
    """

    def __init__(
        self,
        app: Asgi,
        tell: Callable[[Answered], None],
        *,
        clock: Callable[[], float] = time.perf_counter,
        make_id: Callable[[], str] = new_id,
    ) -> None:
        self._app = app
        self.tell = tell
        self._clock = clock
        self._make_id = make_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        known = accepted(scope["headers"])
        identity = known or self._make_id()
        if known is None:
            scope["headers"] = with_id(scope["headers"], identity)
        # The id is not reset: the engine logs this request later in the same task.
        request_id.set(identity)
        request = _Request(scope, receive, send, identity, self._clock, self.tell)
        try:
            await self._app(scope, request.receive, request.send)
        finally:
            request.end(is_complete=False)


class _Request:
    """One request, and what has become of it so far."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        identity: str,
        clock: Callable[[], float],
        tell: Callable[[Answered], None],
    ) -> None:
        self._scope = dict(scope)  # a copy, because an application may change its scope
        self._receive = receive
        self._send = send
        self._identity = identity
        self._clock = clock
        self.tell = tell
        self._began = clock()
        self._status = 0
        self._headers: Any = ()
        self._size = 0
        self._has_left = False
        self._is_over = False

    async def receive(self) -> Any:
        """As the engine's `receive`."""
        message = await self._receive()
        if message["type"].endswith(".disconnect"):
            self._has_left = True
        return message

    async def send(self, message: Any) -> None:
        """As the engine's `send`."""
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self._status, self._headers = message["status"], message.get("headers", ())
        elif kind == "websocket.accept":
            self._status, self._headers = _ACCEPTED, message.get("headers", ())
        elif kind == "websocket.close":
            self._status = self._status or _REFUSED
        is_last = kind in _LAST and not message.get("more_body", False)
        # The id marks the engine's own line about the answer as a duplicate, whatever the context in which
        # the application sends. At the end of an answer the engine begins the next request of the connection,
        # which it has read ahead: in this context, but with another id.
        token = request_id.set(None if is_last else self._identity)
        try:
            await self._send(message)
        finally:
            request_id.reset(token)
        self._size += len(message.get("body", b""))
        if is_last:
            self.end(is_complete=True)

    def end(self, *, is_complete: bool) -> None:
        """The answer has ended: report it. Does nothing if that is done already."""
        if self._is_over:
            return
        self._is_over = True
        scope = self._scope
        is_websocket = scope["type"] == "websocket"
        status = self._status or (_LEFT if self._has_left else _FAILED)
        # The engine answers 500 for a failed application. A WebSocket is complete whichever side closes it.
        is_complete |= not self._status and status == _FAILED
        is_complete |= is_websocket and status == _ACCEPTED and self._has_left
        client = scope.get("client")
        method = scope.get("method", "GET")
        self.tell(
            Answered(
                client=on_one_line(f"{client[0]}:{client[1]}") if client else "",
                method=method,
                target=_target(scope["path"], scope["query_string"]),
                version=scope["http_version"],
                status=status,
                seconds=self._clock() - self._began,
                size=0 if method == "HEAD" else self._size,
                request_id=self._identity,
                is_complete=is_complete,
                is_websocket=is_websocket,
                request_headers=scope["headers"],
                answer_headers=self._headers,
            )
        )
