"""What everycore uses of the private parts of gevent.

A gevent socket is a Python object around one of `_socket.socket`'s children, which `everycore run` reaches by
its class. gevent gives that class a private name. Without it the class is found among the children of
`_socket.socket`, by the module that made it.
"""

from __future__ import annotations

import _socket
from typing import Any

from everycore.foreign import is_allowed


def socket_class(module: Any) -> type | None:
    """The class of the sockets inside those of `gevent._socket3`; None where there is none."""
    kind = getattr(getattr(module, "socket", None), "_gevent_sock_class", None)
    if is_allowed("gevent.socket") and isinstance(kind, type) and issubclass(kind, _socket.socket):
        return kind
    made_there = (kind for kind in _socket.socket.__subclasses__() if kind.__module__ == module.__name__)
    return next(made_there, None)
