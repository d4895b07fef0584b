"""What becomes of a socket that was bound through the primary: copies of it, and its end."""

from __future__ import annotations

import _socket
import socket
from typing import Final

from everycore.worker.intercept.intercepted import InterceptedSocket
from everycore.worker.intercept.sockets import registry, settimeout

_c: Final = _socket.socket
_lib_fromfd: Final = socket.fromfd
_lib_dup: Final = socket.socket.dup
_lib_close: Final = socket.socket.close


def dup(self: socket.socket) -> socket.socket:
    """As `socket.dup`."""
    copy = _lib_dup(self)
    intercepted = registry.find(_c.fileno(self))
    if intercepted is not None:
        _add_copy(copy, intercepted)
    return copy


def _add_copy(copy: socket.socket, intercepted: InterceptedSocket) -> None:
    fd = _c.fileno(copy)
    registry.add(fd, intercepted)
    registry.watch(copy, fd)
    settimeout(copy, _c.gettimeout(copy), intercepted)


def fromfd(fd: int, family: int, type: int, proto: int = 0) -> socket.socket:
    """As `socket.fromfd`."""
    copy = _lib_fromfd(fd, family, type, proto)
    intercepted = registry.find_any(fd)
    if intercepted is not None:
        _add_copy(copy, intercepted)
    return copy


def close(self: socket.socket) -> None:
    """As `socket.close`. A socket that a file of its own keeps open is closed with that."""
    fd = _c.fileno(self)
    intercepted = registry.find(fd)
    if intercepted is not None:
        registry.lend(fd)  # once it is closed, another thread may get the number
    _lib_close(self)
    if intercepted is None:
        return
    if _c.fileno(self) >= 0:
        registry.add(fd, intercepted)
    else:
        registry.closed(fd, intercepted)
