"""The fast path for asyncio in a program that knows nothing of a cluster.

This module replaces methods of asyncio's selector loops in place, in whatever way the program makes its loop.
Listeners that `intercept.sockets` has made are then read in batches, and connections go straight into
transports. Invariant: any other socket takes asyncio's own path.

Speed is the only reason: `create_server` binds and listens with plain sockets, which go through the primary
anyway. `create_unix_server` has another one: it removes the file before it binds, and from Python 3.13 on
again at the end, although all workers share the file.
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
    """Install, once, after `installing.install`."""
    if asyncio_internals.capabilities().servers:  # else connections come from plain `accept`
        _replace_serving(session)
    _replace_create_unix_server()
    _replace_init(session)


def use_uvloop() -> None:
    """Make asyncio create uvloop's loops, for a program that leaves the choice to asyncio."""
    import uvloop

    with warnings.catch_warnings():
        # Deprecated since Python 3.14, but the only way until 3.16. The program must not see the warning.
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
        """As `loop.create_unix_server`, but only the primary removes the file."""
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
    """Show on the board whether this worker's loop waits, for the policy `shared`.

    A loop is made completely or not at all: one that a signal leaves half made complains when it is deleted.
    """
    init = _Loop.__init__

    def __init__(self: Any, selector: Any = None) -> None:  # noqa: N807 - the replaced method's name
        with held(*SIGNALS):
            if selector is None and is_installed():  # a forked child has no row on the board
                selector = self.stamped_selector = StampedSelector(session.board)
            init(self, selector)

    _Loop.__init__ = __init__
