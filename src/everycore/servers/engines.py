"""uvicorn as a library: serves one ASGI application on sockets that it is given.

Job: `Engine.serve`, from the first connection to the last. Invariant: no signal handler of uvicorn's is
installed; who stops it is the worker's context. Nothing but this file knows uvicorn.

Facts (uvicorn 0.30 to 0.54): `Config.load` calls the application without arguments to find out whether it is
a factory, which must fail, and does for anything with ASGI's three arguments. `Server.startup` is where the
servers start. `WEB_CONCURRENCY` is read, and must be a number, unless `workers` is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from everycore.servers.interfaces import Asgi
from everycore.servers.loading import CannotBootError

try:
    import uvicorn
except ImportError:
    raise CannotBootError("serve needs uvicorn: pip install 'everycore[standard]'") from None

#: Of the grace, this part is left to the application's own shutdown once its requests were cut short.
_LAST_PART = 0.1


class _Server(uvicorn.Server):
    """Without signal handlers; says when it serves."""

    def __init__(self, config: uvicorn.Config, on_serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_serving = on_serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_serving()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: they are the worker's, and stop it by way of `stop`."""
        yield


class Engine:
    """One application, served once."""

    def __init__(self, app: Asgi, *, grace: float, access_log: bool) -> None:
        self._config = uvicorn.Config(
            app,
            interface="asgi3",
            lifespan="off",  # ours, see servers/lifespan.py
            log_config=None,
            access_log=access_log,
            workers=1,
            timeout_graceful_shutdown=grace * (1 - _LAST_PART),  # type: ignore[arg-type] # any number will do
        )

    async def serve(
        self, sockets: Sequence[socket.socket], on_serving: Callable[[], None], stop: Awaitable[Any]
    ) -> None:
        """Serve until `stop` is done, then let requests finish for as long as the grace allows."""
        server = _Server(self._config, on_serving)

        async def stop_in_time() -> None:
            await stop
            server.should_exit = True

        stopper = asyncio.ensure_future(stop_in_time())
        try:
            await server.serve(sockets=list(sockets))
        finally:
            stopper.cancel()
