"""The fast road for asyncio in a program that knows nothing of a cluster.

Replace methods of asyncio's selector loops in place, whichever way a program makes its loop, so that
listeners that `intercept.sockets` put there are read in batches and connections go straight into transports.
Invariant: a socket that is no such listener takes asyncio's own road.

That is all it is for: `create_server` binds and listens by plain sockets, which go through the primary
anyway. `create_unix_server` is another matter: it removes the file before it binds, and from Python 3.13 on
again at the end, and the file is everybody's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import warnings
from typing import TYPE_CHECKING, Any

from everycore.foreign import asyncio_internals
from everycore.foreign.asyncio_internals import ServingArguments
from everycore.held_signals import held
from everycore.worker.connections.shared_reader import StampedSelector
from everycore.worker.intercept.intercepted import InterceptedSocket
from everycore.worker.intercept.sockets import bind_path, by_our_loop
from everycore.worker.intercept.state import is_installed, registry
from everycore.worker.loops import asyncio_loop
from everycore.worker.signals import SIGNALS

if TYPE_CHECKING:
    from everycore.worker.session import Session

_Loop: Any = asyncio.SelectorEventLoop


def install_on_asyncio(session: Session) -> None:
    """Once, after `installing.install`."""
    if asyncio_internals.capabilities().servers:  # else connections come by plain `accept`
        _replace_serving(session)
    _replace_create_unix_server()
    _replace_init(session)


def use_uvloop() -> None:
    """Let asyncio make uvloop's loops, for a program that leaves the choice to asyncio."""
    import uvloop

    with warnings.catch_warnings():
        # Deprecated since Python 3.14, and the only way until 3.16. The program is not to answer for it.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _listener(sock: Any) -> InterceptedSocket | None:
    intercepted = registry.find(sock.fileno())
    return intercepted if intercepted is not None and intercepted.is_listening else None


def _replace_serving(session: Session) -> None:
    def start(loop: Any, serving: ServingArguments) -> bool:
        intercepted = _listener(serving.sock)
        if intercepted is None:
            return False
        source = intercepted.source()
        assert source is not None
        source.setblocking(False)
        asyncio_loop.receive(loop, source, session, serving)
        return True

    def stop(loop: Any, sock: Any) -> None:
        intercepted = _listener(sock)
        if intercepted is not None and (source := intercepted.source()) is not None and source.fileno() >= 0:
            loop.remove_reader(source.fileno())

    asyncio_internals.on_start_serving(_Loop, start)
    asyncio_internals.on_stop_serving(_Loop, stop)
    asyncio_internals.around_start_of_server(by_our_loop)


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


def _replace_init(session: Session) -> None:
    """The others see on the board whether this worker is free: for the policy `shared`.

    A loop is made as a whole or not at all: one that a signal leaves half made complains when it is deleted.
    """
    init = _Loop.__init__

    def __init__(self: Any, selector: Any = None) -> None:  # noqa: N807 - it is to bear that name
        with held(*SIGNALS):
            if selector is None and is_installed():  # not in a forked child, which has no row on the board
                selector = self.stamped_selector = StampedSelector(session.board)
            init(self, selector)

    _Loop.__init__ = __init__
