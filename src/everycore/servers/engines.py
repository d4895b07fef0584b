"""uvicorn as a library: it serves one ASGI application on sockets that it is given.

`Engine.serve` runs from the first connection to the last. Invariant: uvicorn's signal handlers are not
installed, and an `Exit` stops it.

Facts (uvicorn 0.30 to 0.54): to find out whether the application is a factory, `Config.load` calls it without
arguments. That call must fail, and does for anything with ASGI's three arguments. `Server.startup` starts the
servers, `main_loop` checks for the end, and `shutdown` closes the open connections. uvicorn reads
`WEB_CONCURRENCY`, which must be a number, unless `workers` is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from everycore.foreign.spared_imports import without
from everycore.servers.asgi import Asgi
from everycore.servers.departing import Departing, Exit
from everycore.servers.draining import Draining, DrainingApp
from everycore.servers.loading import CannotBootError, words

try:
    with without("watchfiles"):  # only uvicorn's command uses it: 9 modules, 0.5 MB
        import uvicorn
except ImportError:
    raise CannotBootError("serve needs uvicorn: pip install 'everycore[standard]'") from None
from everycore.foreign.uvicorn_internals import Inside, capabilities, is_known, use_transport_addresses

#: How long uvicorn itself may wait when it stops, in seconds: by then there is nothing left to wait for.
_NOTHING_LEFT: Final = 0.1


class _Server(uvicorn.Server):
    """uvicorn's server without signal handlers.

    It reports when it serves. Once told to stop, it ends as soon as nothing is left.
    `inside` is None if uvicorn's internal parts did not pass their probe.
    """

    inside: Inside | None = None

    def __init__(self, config: uvicorn.Config, on_serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_serving = on_serving
        self._is_told = asyncio.Event()

    def stop(self) -> None:
        """Stop serving."""
        self.should_exit = True
        self._is_told.set()

    async def main_loop(self) -> None:
        """As uvicorn's, which checks only every 0.1 s whether it is to end."""
        ticking = asyncio.ensure_future(super().main_loop())
        told = asyncio.ensure_future(self._is_told.wait())
        try:
            await asyncio.wait((ticking, told), return_when=asyncio.FIRST_COMPLETED)
            if ticking.done():
                ticking.result()  # raise its error, if any
        finally:
            ticking.cancel()
            told.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which would give connections 0.1 s to end even if there are none."""
        if self.inside is None or self.inside.connections() or self.inside.tasks():
            await super().shutdown(sockets)
            return
        self.inside.stop_accepting()
        for sock in sockets or ():
            sock.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_serving()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: the worker handles them, and calls `stop`."""
        yield


class Engine:
    """One application, served once. `spread`, in seconds, is that of `--spread`; None is its default.

    options: those of uvicorn's `Config`, as `engine_arguments.arguments` makes them.
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
        try:
            self._config = uvicorn.Config(
                DrainingApp(app, self._draining),
                interface="asgi3",
                lifespan="off",  # everycore runs the lifespan: see servers/lifespan.py
                log_config=None,  # see servers/log_config.py
                access_log=access_log,
                workers=1,
                timeout_graceful_shutdown=_NOTHING_LEFT,  # type: ignore[arg-type] # any number will do
                **options,
            )
            self._config.load()
            if capabilities().addresses:
                use_transport_addresses(self._config)
        except (Exception, SystemExit) as error:  # the user's options: report uvicorn's words, no traceback
            raise CannotBootError(f"uvicorn refuses its options: {words(error)}") from None

    async def serve(
        self, sockets: Sequence[socket.socket], on_serving: Callable[[], None], exit: Exit
    ) -> None:
        """Serve until `exit` asks for the end. Then let requests finish for as long as the grace allows."""

        def serving() -> None:
            departing.on_serving()
            on_serving()

        server = _Server(self._config, serving)
        server.inside = inside = (
            Inside(server) if capabilities().handover and is_known(self._config) else None
        )
        departing = Departing(
            exit,
            self._draining,
            inside,
            keep_alive=self._config.timeout_keep_alive,
            spread=self._spread,
        )

        async def leave() -> None:
            try:
                await exit.asked()
                await departing.run()
            finally:
                server.stop()

        leaving = asyncio.ensure_future(leave())
        try:
            await server.serve(sockets=list(sockets))
        finally:
            leaving.cancel()
