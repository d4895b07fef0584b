"""Puts the methods of this package into `socket.socket`."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from everycore.foreign.socket_internals import replace_accept
from everycore.worker.intercept import copies, sockets
from everycore.worker.intercept.sockets import SAME, registry, replace

if TYPE_CHECKING:
    from everycore.worker.session import Session


def install(session: Session) -> None:
    """From now on the sockets of this process go through the primary. Once."""
    sockets.go_through(session)
    registry.when_closed = session.grants.settle
    replace(socket.socket, *SAME, sockets.__init__, sockets.accept)
    replace(socket.socket, copies.dup, copies.close, copies.__repr__)
    replace_accept(socket.socket, sockets.accept_descriptor)
    socket.fromfd = copies.fromfd  # type: ignore[assignment] # plain integers are all it ever gets
    os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    sockets.go_through(None)
    registry.when_closed = lambda: None
    registry.forked()
