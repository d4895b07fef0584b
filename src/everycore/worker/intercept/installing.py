"""Puts the methods of this package into `socket.socket`."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from everycore.foreign.socket_internals import replace_accept
from everycore.worker.intercept import copies, sockets, state
from everycore.worker.intercept.intercepted import InterceptedSocket
from everycore.worker.intercept.sockets import SAME, replace
from everycore.worker.intercept.state import registry

if TYPE_CHECKING:
    from everycore.worker.session import Session


def install(session: Session) -> None:
    """Make new sockets of this process go through the primary. Called once."""
    state.go_through(session)
    registry.when_closed = partial(_closed, session)
    replace(socket.socket, *SAME, sockets.__init__, sockets.accept)
    replace(socket.socket, copies.dup, copies.close, copies.__repr__)
    replace_accept(socket.socket, sockets.accept_descriptor)
    socket.fromfd = copies.fromfd  # type: ignore[assignment] # it only ever gets plain integers
    os.register_at_fork(after_in_child=_forked)


def _closed(session: Session, intercepted: InterceptedSocket) -> None:
    is_path = not isinstance(intercepted.address, list)
    state.leave(intercepted.address if is_path else intercepted.name[1])
    session.grants.settle()


def _forked() -> None:
    state.go_through(None)
    registry.when_closed = lambda _: None
    registry.forked()
