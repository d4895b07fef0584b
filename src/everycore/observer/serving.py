"""uvicorn as the server of the observer: on sockets that the primary has bound, with limits for its clients.

Invariant: at most `MOST_CLIENTS` connections are open, none for longer than `LONGEST` seconds, whatever a
client does or omits. The oldest makes room for the newest, so a thousand silent clients cannot keep a probe
out.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CLIENTS: Final = 256
#: How long a connection may be open, in seconds.
LONGEST: Final = 15.0
#: Most bytes in the head of a request.
_MOST_HEAD: Final = 16 * 1024
_KEEP_ALIVE: Final = 5


class Bounds:
    """The connections of one server, the oldest first."""

    def __init__(self, most: int = MOST_CLIENTS, longest: float = LONGEST) -> None:
        self._most = most
        self._longest = longest
        self._open: dict[asyncio.Transport, asyncio.TimerHandle] = {}

    def opened(self, transport: asyncio.Transport) -> None:
        """Count a new connection. If there are too many, abort the oldest."""
        while len(self._open) >= self._most:
            oldest = next(iter(self._open))
            self.closed(oldest)
            oldest.abort()
        timer = asyncio.get_running_loop().call_later(self._longest, transport.abort)
        self._open[transport] = timer

    def closed(self, transport: asyncio.Transport) -> None:
        """Count a connection as closed."""
        timer = self._open.pop(transport, None)
        if timer is not None:
            timer.cancel()


def bounded(bounds: Bounds) -> type[asyncio.Protocol]:
    """A protocol class: uvicorn's HTTP on h11, with connections that are counted and limited."""

    class Bounded(H11Protocol):
        _its: asyncio.Transport

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._its = transport
            bounds.opened(transport)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            bounds.closed(self._its)
            super().connection_lost(exc)

    return Bounded


class _Quiet(uvicorn.Server):
    """uvicorn's server without signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def server_of(app: Callable[..., Any], bounds: Bounds | None = None) -> uvicorn.Server:
    """Make a server of the application. Its `serve(sockets)` runs until `should_exit`."""
    return _Quiet(
        uvicorn.Config(
            app,
            interface="asgi3",
            http=bounded(bounds or Bounds()),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            workers=1,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            h11_max_incomplete_event_size=_MOST_HEAD,
        )
    )


def inherited(fds: Sequence[int]) -> list[socket.socket]:
    """Make sockets of the listeners on these descriptors."""
    found = []
    for fd in fds:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        found.append(sock)
    return found
