"""The ASGI lifespan: the application's own start and stop, before and after it serves.

everycore runs it, not the engine, so that a failed start is a boot failure with the application's own text.
The primary reports it once, instead of the engine once a worker. Invariant: the application's lifespan task
has ended when `shutdown` returns. Source: the ASGI lifespan specification 2.0. An application that raises
before it has answered does not know the protocol. It is served without a lifespan, as the specification
demands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from everycore.aio.waiting import settle
from everycore.servers.asgi import Asgi, Receive, Scope, Send
from everycore.servers.loading import CannotBootError, user_traceback
from everycore.servers.whereabouts import whereabouts

log = logging.getLogger("everycore.servers")

#: How long the application has to end once it is cancelled, in seconds.
_LAST_WORDS: Final = 0.25


#: "off": the application is not asked. "on": an application without a lifespan can't start.
Mode = Literal["auto", "on", "off"]


class Lifespan:
    """`app` with a lifespan. Serve this object: it gives every connection the state made at the start.

    requested: called for each request and each WebSocket. A mold may make this object, before any loop runs.
    """

    def __init__(
        self, app: Asgi, mode: Mode = "auto", requested: Callable[[], object] = lambda: None
    ) -> None:
        self.requested = requested
        self._app = app
        self._mode = mode
        self._state: dict[str, Any] = {}
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._started: asyncio.Future[None]
        self._stopped: asyncio.Future[None]
        self._task: asyncio.Task[None] | None = None
        self._is_known = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request. This is not a coroutine function, which saves a frame for each request."""
        self.requested()
        scope["state"] = self._state.copy()
        return self._app(scope, receive, send)

    async def startup(self) -> None:
        """Start the application. Raises CannotBootError if it says that it failed."""
        if self._mode == "off":
            return
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._task = loop.create_task(self._run())
        self._events.put_nowait({"type": "lifespan.startup"})
        await self._started

    async def shutdown(self, seconds: float | None = None) -> None:
        """Stop the application, if it was started and takes part. Cut it off after `seconds`.

        A cut-off is logged as an error, with the place at which the application waited: data may be lost.
        """
        if self._task is None:
            return
        self._events.put_nowait({"type": "lifespan.shutdown"})
        try:
            async with asyncio.timeout(seconds):
                await self._stopped
                await asyncio.wait([self._task])
        except TimeoutError:
            self._cut_off(f"its {seconds:g} s are over (--shutdown-timeout)")
            await asyncio.wait([self._task], timeout=_LAST_WORDS)
        except asyncio.CancelledError:
            self._cut_off("this worker ends now")
            raise

    def forget(self) -> None:
        """Let go of the application and its state, so that nothing of everycore keeps them alive.

        The objects that still refer to this one (an engine, the channel) existed before the application, and
        are never collected. If they kept the application alive, Python would not flush the application's
        files, as it does when it ends.
        """
        self._app = _gone
        self._state = {}

    def _cut_off(self, why: str) -> None:
        assert self._task is not None
        if not self._task.done():
            where = whereabouts(self._task)
            log.error("the application's shutdown was cut off: %s; it was here:\n%s", why, where)
            self._task.cancel()

    async def _run(self) -> None:
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except (Exception, SystemExit) as error:
            self._raised(error)
        finally:
            settle(self._started, None)
            settle(self._stopped, None)

    def _raised(self, error: BaseException) -> None:
        if isinstance(error, SystemExit) and not self._started.done():
            settle(self._started, CannotBootError(user_traceback(error)))
        elif not self._started.done() and self._mode == "on":
            text = f"the application has no lifespan (--lifespan on):\n{user_traceback(error)}"
            settle(self._started, CannotBootError(text))
        elif not self._started.done():
            level = logging.WARNING if self._is_known else logging.DEBUG
            log.log(level, "served without a lifespan: the application raised in it", exc_info=error)
        elif self._started.exception() is None:
            log.error("the application's lifespan failed", exc_info=error)

    async def _receive(self) -> dict[str, str]:
        self._is_known = True
        return await self._events.get()

    async def _send(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                settle(self._started, None)
            case "lifespan.startup.failed":
                text = message.get("message") or "the application's startup failed; it does not say why"
                settle(self._started, CannotBootError(text.rstrip("\n")))
            case "lifespan.shutdown.complete":
                settle(self._stopped, None)
            case "lifespan.shutdown.failed":
                log.error(
                    "the application's shutdown failed: %s", message.get("message") or "no reason given"
                )
                settle(self._stopped, None)


async def _gone(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RuntimeError("the application has been shut down")
