"""Copies of a socket that was bound through the primary, its `repr`, and its end."""

from __future__ import annotations

import _socket
import socket
from typing import Final

from everycore.worker.intercept.intercepted import InterceptedSocket
from everycore.worker.intercept.options import settimeout
from everycore.worker.intercept.state import registry

_c: Final = _socket.socket
_lib_fromfd: Final = socket.fromfd
_lib_dup: Final = socket.socket.dup
_lib_close: Final = socket.socket.close
_lib_repr: Final = socket.socket.__repr__


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


def __repr__(self: socket.socket) -> str:  # noqa: N807 - the replaced method's name
    """As `socket.__repr__`, but without a request to the primary.

    The library's own asks for the name, and a free port is bound when its number is asked for. Python calls
    `repr` for each socket that was not closed when it is collected, even if the warning is never shown.
    """
    fd = _c.fileno(self)
    intercepted = registry.find(fd)
    if intercepted is None or intercepted.inner is not None:
        return _lib_repr(self)
    kind = type(self)
    return (
        f"<{kind.__module__}.{kind.__qualname__} fd={fd}, family={self.family!s}, type={self.type!s},"
        f" proto={self.proto}, laddr={tuple(intercepted.address)}>"
    )


def close(self: socket.socket) -> None:
    """As `socket.close`. If a file made from the socket keeps it open, it is closed with that file."""
    fd = _c.fileno(self)
    intercepted = registry.find(fd)
    if intercepted is not None:
        registry.lend(fd)  # once the descriptor is closed, another thread may get its number
    _lib_close(self)
    if intercepted is None:
        return
    if _c.fileno(self) >= 0:
        registry.add(fd, intercepted)
    else:
        registry.closed(fd, intercepted)
