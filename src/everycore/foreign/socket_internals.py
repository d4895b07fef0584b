"""The private part of `socket` that everycore uses.

`_socket.socket._accept` returns a descriptor and the peer's address without making a socket object, which
saves 3 us a connection. Libraries that make socket objects of their own (gevent) call it too, so `everycore
run` replaces it along with the other methods.
"""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable
from typing import Any, Final

from everycore.foreign import is_allowed

Accept = Callable[[Any], tuple[int, Any]]

_NAME: Final = "_accept"
_public_accept: Final = socket.socket.accept  # as it is before `everycore run` replaces it


def _accept_by_object(sock: Any) -> tuple[int, Any]:
    conn, peer = _public_accept(sock)
    return conn.detach(), peer


def _probed() -> Accept | None:
    private: Accept | None = getattr(_socket.socket, _NAME, None)
    if private is None or not is_allowed("socket.accept"):
        return None
    try:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind("")  # unix(7), autobind: a free abstract name
            listener.listen(1)
            client.connect(listener.getsockname())
            fd, _ = private(listener)
            with socket.socket(fileno=fd) as conn:
                return private if conn.getsockname() == listener.getsockname() else None
    except (OSError, TypeError, ValueError):
        return None


#: Accept one connection: its descriptor and the peer's address. Raises OSError as `socket.accept` does.
accept: Final[Accept] = _probed() or _accept_by_object


def replace_accept(kind: Any, function: Callable[[Accept, Any], tuple[int, Any]]) -> None:
    """Replace the method that accepts a descriptor, if there is one, with `function(native, sock)`."""
    native = getattr(kind, _NAME, None)
    if native is not None:
        setattr(kind, _NAME, lambda self: function(native, self))


def keep_native_accept(kind: Any) -> None:
    """Let a child of `socket.socket` keep C's method when `replace_accept` changes its parent."""
    native = getattr(_socket.socket, _NAME, None)
    if native is not None:
        setattr(kind, _NAME, native)
