"""uvicorn as a library: serves one ASGI application on sockets that it is given.

`Engine.serve`, from the first connection to the last. Invariant: no signal handler of uvicorn's is
installed; who stops it is an `Exit`. Nothing but this file and `foreign.uvicorn_internals` knows uvicorn.

Facts (uvicorn 0.30 to 0.54): `Config.load` calls the application without arguments to find out whether it is
a factory, which must fail, and does for anything with ASGI's three arguments. `Server.startup` is where the
servers start, `main_loop` looks for the end, and `shutdown` closes what is open. `WEB_CONCURRENCY` is read,
and must be a number, unless `workers` is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from everycore.servers.asgi import Asgi
from everycore.servers.departing import Departing, Exit
from everycore.servers.draining import Draining, DrainingApp
from everycore.servers.loading import CannotBootError, words

try:
    import uvicorn
except ImportError:
    raise CannotBootError("serve needs uvicorn: pip install 'everycore[standard]'") from None
from everycore.foreign.uvicorn_internals import Inside, capabilities, is_known, use_transport_addresses

#: What uvicorn itself may wait for when it stops, in seconds: by then there is nothing left to wait for.
_NOTHING_LEFT: Final = 0.1


class _Server(uvicorn.Server):
    """Without signal handlers; says when it serves, and ends as soon as it is told and nothing is left.

    `inside` is None where its inner parts are not as we know them.
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
        """As uvicorn's, which looks every 0.1 s whether it is to end."""
        ticking = asyncio.ensure_future(super().main_loop())
        told = asyncio.ensure_future(self._is_told.wait())
        try:
            await asyncio.wait((ticking, told), return_when=asyncio.FIRST_COMPLETED)
            if ticking.done():
                ticking.result()  # what went wrong in it
        finally:
            ticking.cancel()
            told.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which gives connections 0.1 s to end even where there are none."""
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
        """Leave signals alone: they are the worker's, and stop it by way of `stop`."""
        yield


class Engine:
    """One application, served once. `spread`, in seconds, as `--spread`; None: its default.

    options: of uvicorn's `Config`, as `engine_options.arguments` makes them.
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
                lifespan="off",  # ours, see servers/lifespan.py
                log_config=None,  # see servers/log_config.py
                access_log=access_log,
                workers=1,
                timeout_graceful_shutdown=_NOTHING_LEFT,  # type: ignore[arg-type] # any number will do
                **options,
            )
            self._config.load()
            if capabilities().addresses:
                use_transport_addresses(self._config)
        except (Exception, SystemExit) as error:  # the user's options: a word of uvicorn's, not our traceback
            raise CannotBootError(f"uvicorn refuses its options: {words(error)}") from None

    async def serve(
        self, sockets: Sequence[socket.socket], on_serving: Callable[[], None], exit: Exit
    ) -> None:
        """Serve until `exit` asks for the end, then let requests finish for as long as the grace allows."""

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
