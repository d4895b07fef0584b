"""How a leaving worker treats the clients that it still has, in ASGI alone.

From the moment the worker leaves, every answer says `Connection: close`, WebSockets are closed with 1012, and
event streams end. The ends are spread over time, so that the clients do not all come back at once. Invariant:
a client reads in its answer that the connection will end before it ends. Source: RFC 9112 9.6 (a server that
has sent `close` closes the connection in stages), RFC 6455 7.4.1 and the registry behind it (1012, service
restart), the ASGI specification.

HOT: each request costs one object, and each message one more frame and one check.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from everycore.servers.asgi import Asgi, Receive, Scope, Send
from everycore.servers.exchanges import HttpExchange, LongExchange, WebSocketExchange

#: Methods whose requests have no body as a rule. Their body need not be read to its end.
WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class Draining:
    """Whether this worker is leaving, and the exchanges that it then has to end.

    keeps: returns whether the connection behind this `send` may live on after the answer, because it can be
        handed on or has sent another request.
    answered: called after each complete answer of a leaving worker.
    draw: returns a random number of seconds, from 0 to its argument.
    """

    def __init__(
        self,
        keeps: Callable[[Send], bool] = lambda _send: False,
        answered: Callable[[], None] = lambda: None,
        draw: Callable[[float], float] = lambda seconds: random.uniform(0.0, seconds),
    ) -> None:
        self.is_on = False
        self.keeps = keeps
        self.answered = answered
        self._draw = draw
        self._spread_until = 0.0
        self._open: set[LongExchange] = set()
        self._timers: dict[LongExchange, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, spread: float) -> None:
        """Begin to leave, with the ends spread over `spread` seconds. Does nothing if it has begun."""
        if self.is_on:
            return
        self.is_on = True
        self._spread_until = asyncio.get_running_loop().time() + spread
        for ending in self._open:
            self._schedule(ending)

    def opened(self, ending: LongExchange) -> None:
        """Remember an exchange that does not end by itself."""
        self._open.add(ending)
        if self.is_on:
            self._schedule(ending)

    def ended(self, ending: LongExchange) -> None:
        """Forget an exchange that has ended. Does nothing if it is forgotten already."""
        self._open.discard(ending)
        timer = self._timers.pop(ending, None)
        if timer is not None:
            timer.cancel()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _schedule(self, ending: LongExchange) -> None:
        loop = asyncio.get_running_loop()
        seconds = max(self._spread_until - loop.time(), 0.0)
        self._timers[ending] = loop.call_later(self._draw(seconds), ending.end_soon)


class DrainingApp:
    """An application whose answers change as described above once the worker leaves."""

    def __init__(self, app: Asgi, draining: Draining) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange: HttpExchange | WebSocketExchange
        kind = scope["type"]
        if kind == "http":
            exchange = HttpExchange(self._draining, scope, send)
            if scope["method"] not in WITHOUT_BODY:
                receive = exchange.watch_body(receive)
        elif kind == "websocket":
            exchange = WebSocketExchange(self._draining, send)
        else:
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, exchange.send)
        except (Exception, BaseExceptionGroup) as error:
            if not exchange.explains(error):
                raise
        finally:
            exchange.finish()
