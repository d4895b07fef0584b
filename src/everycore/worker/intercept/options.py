"""Options, time-outs and the peer of a socket that was bound through the primary."""

from __future__ import annotations

import _socket
import errno
import socket
import struct
from typing import Any, Final

from everycore.core import wire
from everycore.kernel import os_error
from everycore.worker.intercept import state
from everycore.worker.intercept.intercepted import InterceptedSocket
from everycore.worker.intercept.state import registry
from everycore.worker.listening.clustersocket import VERY_LONG

_c: Final = _socket.socket
_INT: Final = struct.Struct("i")


def getpeername(self: socket.socket, /) -> Any:
    """As `socket.getpeername`: a listener has no peer, although a belt has one."""
    intercepted = registry.find(_c.fileno(self))
    if intercepted is not None and intercepted.inner is not None:
        raise os_error(errno.ENOTCONN)
    return _c.getpeername(self)


def getsockopt(self: socket.socket, level: int, option: int, *size: int) -> Any:
    """As `socket.getsockopt`."""
    intercepted = registry.find(_c.fileno(self))
    if intercepted is None or intercepted.is_shared or intercepted.inner is None:
        return _c.getsockopt(self, level, option, *size)
    grant = intercepted.inner.grant
    if level == socket.SOL_SOCKET and option == socket.SO_ERROR:
        return _c.getsockopt(self, level, option, *size)
    if (
        (level == socket.SOL_SOCKET and option == socket.SO_ACCEPTCONN)
        or grant is None
        or state.session is None
    ):
        return intercepted.inner.getsockopt(level, option, *size)
    value = state.session.grants.option(
        wire.GetOption(grant.listener, level, option, size[0] if size else _INT.size)
    )
    if size:
        return value
    return _INT.unpack(value.ljust(_INT.size, b"\0")[: _INT.size])[0]


def setsockopt(self: socket.socket, level: int, option: int, value: Any, *size: int) -> None:
    """As `socket.setsockopt`."""
    intercepted = registry.find(_c.fileno(self))
    if intercepted is None or intercepted.is_shared or intercepted.inner is None:
        _c.setsockopt(self, level, option, value, *size)
        return
    grant = intercepted.inner.grant
    if grant is None or state.session is None:
        return
    if value is None:
        data = bytes(size[0]) if size else b""
    else:
        data = _INT.pack(value) if isinstance(value, int) else bytes(value)
    state.session.grants.option(wire.SetOption(grant.listener, level, option, data))


def settimeout(
    self: socket.socket, value: float | None, intercepted: InterceptedSocket | None = None, /
) -> None:
    """As `socket.settimeout`.

    A shared listener's open file, and with it the blocking mode, belongs to every worker. Blocking without
    limit is a very long time-out there.
    """
    intercepted = intercepted or registry.find(_c.fileno(self))
    _c.settimeout(
        self, VERY_LONG if value is None and intercepted is not None and intercepted.is_shared else value
    )


def setblocking(self: socket.socket, flag: bool, /) -> None:
    """As `socket.setblocking`."""
    settimeout(self, None if flag else 0.0)


def gettimeout(self: socket.socket, /) -> float | None:
    """As `socket.gettimeout`."""
    timeout = _c.gettimeout(self)
    return None if timeout == VERY_LONG else timeout
