"""The private part of gevent that everycore uses.

A gevent socket is a Python object around an instance of a child of `_socket.socket`. `everycore run` reaches
that child class by a private name of gevent's. Without the name it finds the class among the children of
`_socket.socket`, by the module that defines it.
"""

from __future__ import annotations

import _socket
from typing import Any

from everycore.foreign import is_allowed


def socket_class(module: Any) -> type | None:
    """The class of the sockets inside gevent's own, given `gevent._socket3`; None if there is none."""
    kind = getattr(getattr(module, "socket", None), "_gevent_sock_class", None)
    if is_allowed("gevent.socket") and isinstance(kind, type) and issubclass(kind, _socket.socket):
        return kind
    made_there = (kind for kind in _socket.socket.__subclasses__() if kind.__module__ == module.__name__)
    return next(made_there, None)
