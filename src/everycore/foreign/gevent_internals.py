"""What everycore uses of the private parts of gevent.

A gevent socket is a Python object around one of `_socket.socket`'s children, which `everycore run` reaches by
its class. Without it a gevent program under `everycore run` listens by itself.
"""

from __future__ import annotations

import _socket
from typing import Any

from everycore.foreign import is_allowed


def socket_class(module: Any) -> type | None:
    """The class of the sockets inside those of `gevent._socket3`; None where there is none that we know."""
    kind = getattr(getattr(module, "socket", None), "_gevent_sock_class", None)
    known = is_allowed("gevent.socket") and isinstance(kind, type) and issubclass(kind, _socket.socket)
    return kind if known else None
