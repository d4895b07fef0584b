"""The fast road for asyncio in a program that knows nothing of a cluster.

Job: replace methods of asyncio's selector loops in place, whichever way a program makes its loop, so that
listeners that `worker.intercept` put there are read in batches and connections go straight into transports.
Invariant: a socket that is no such listener takes asyncio's own road. Must not import the primary's side.

That is all it is for: `create_server` binds and listens by plain sockets, which go through the primary
anyway. `create_unix_server` is another matter: it removes the file before it binds, and from Python 3.13 on
again at the end, and the file is everybody's.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

from everycore.worker import loops
from everycore.worker.held import Held
from everycore.worker.intercept import bind_path, is_installed, registry
from everycore.worker.turns import StampedSelector

if TYPE_CHECKING:
    from everycore.worker.context import WorkerContext

_Loop: Any = asyncio.SelectorEventLoop


def install_on_asyncio(context: WorkerContext) -> None:
    """Once, after `intercept.install`."""
    if loops.knows_asyncio():
        _replace_serving(context)
    _replace_create_unix_server()
    _replace_selector(context)


def use_uvloop() -> None:
    """Let asyncio make uvloop's loops, for a program that leaves the choice to asyncio."""
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _listener(sock: Any) -> Held | None:
    held = registry.find(sock.fileno())
    return held if held is not None and held.is_listening else None


def _replace_serving(context: WorkerContext) -> None:
    base: Any = asyncio.selector_events.BaseSelectorEventLoop
    start, stop = base._start_serving, base._stop_serving

    def _start_serving(
        self: Any,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        *times: Any,
        **named: Any,
    ) -> None:
        held = _listener(sock)
        if held is None:
            start(self, protocol_factory, sock, sslcontext, server, backlog, *times, **named)
            return
        inner = held.inner
        assert inner is not None
        names = ("ssl_handshake_timeout", "ssl_shutdown_timeout")
        given = dict(zip(names, times, strict=False)) | named
        ssl_times = {name: given.get(name) for name in names}
        reception = loops.AsyncioReception(
            self, context, inner, protocol_factory, sslcontext, server, ssl_times
        )
        inner.setblocking(False)
        loops.receive(self, inner, context, reception)

    def _stop_serving(self: Any, sock: Any) -> None:
        held = _listener(sock)
        if held is not None and held.inner is not None and held.inner.fileno() >= 0:
            self._remove_reader(held.inner.fileno())
        stop(self, sock)

    base._start_serving, base._stop_serving = _start_serving, _stop_serving


def _replace_create_unix_server() -> None:
    create = _Loop.create_unix_server

    async def create_unix_server(
        self: Any, protocol_factory: Any, path: Any = None, *, sock: Any = None, **more: Any
    ) -> Any:
        """As `loop.create_unix_server`; the file is removed by nobody but the primary."""
        if path is None or sock is not None or isinstance(more.get("ssl"), bool):
            return await create(self, protocol_factory, path, sock=sock, **more)
        path = os.fspath(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bind_path(listener, path)
            more.pop("cleanup_socket", None)
            return await create(self, protocol_factory, sock=listener, **more)
        except BaseException:
            listener.close()
            raise

    _Loop.create_unix_server = create_unix_server


def _replace_selector(context: WorkerContext) -> None:
    """The others see on the board whether this worker is free: for the policy `shared`."""
    base: Any = asyncio.selector_events.BaseSelectorEventLoop
    init = base.__init__

    def __init__(self: Any, selector: Any = None) -> None:  # noqa: N807 - it is to bear that name
        if selector is None and is_installed():  # not in a forked child, which has no place on the board
            selector = StampedSelector(context.board)
        init(self, selector)

    base.__init__ = __init__
