"""What becomes of a socket that was bound through the primary: copies of it, and its end."""

from __future__ import annotations

import _socket
import socket
from typing import Final

from everycore.worker.intercept.held import Held
from everycore.worker.intercept.sockets import registry, settimeout

_c: Final = _socket.socket
_lib_fromfd: Final = socket.fromfd
_lib_dup: Final = socket.socket.dup
_lib_close: Final = socket.socket.close


def dup(self: socket.socket) -> socket.socket:
    """As `socket.dup`."""
    copy = _lib_dup(self)
    held = registry.find(_c.fileno(self))
    if held is not None:
        _add_copy(copy, held)
    return copy


def _add_copy(copy: socket.socket, held: Held) -> None:
    fd = _c.fileno(copy)
    registry.add(fd, held)
    registry.watch(copy, fd)
    settimeout(copy, _c.gettimeout(copy), held)


def fromfd(fd: int, family: int, type: int, proto: int = 0) -> socket.socket:
    """As `socket.fromfd`."""
    copy = _lib_fromfd(fd, family, type, proto)
    held = registry.find_any(fd)
    if held is not None:
        _add_copy(copy, held)
    return copy


def close(self: socket.socket) -> None:
    """As `socket.close`. A socket that a file of its own keeps open is closed with that."""
    fd = _c.fileno(self)
    held = registry.find(fd)
    if held is not None:
        registry.lend(fd)  # once it is closed, another thread may get the number
    _lib_close(self)
    if held is None:
        return
    if _c.fileno(self) >= 0:
        registry.add(fd, held)
    else:
        registry.closed(fd, held)
