"""Sockets that other libraries make from those of the program: TLS listeners, gevent.

`intercept.sockets` does not reach these. Invariant: a library that the program does not import is left alone.
"""

from __future__ import annotations

import _socket
import os
import socket
from typing import Any, Final

from everycore.foreign import gevent_internals
from everycore.foreign.socket_internals import replace_accept
from everycore.worker.intercept.hooks import after_import
from everycore.worker.intercept.options import settimeout
from everycore.worker.intercept.sockets import SAME, accept_descriptor, replace
from everycore.worker.intercept.state import registry

_c: Final = _socket.socket


def install_on_libraries() -> None:
    """Install, once, after `installing.install`."""
    after_import("ssl", _install_on_ssl)
    after_import("gevent._socket3", _install_on_gevent)


def _install_on_ssl(module: Any) -> None:
    lib_wrap = module.SSLContext.wrap_socket

    def wrap_socket(self: Any, sock: Any, *args: Any, **more: Any) -> Any:
        """As `SSLContext.wrap_socket`, which reads a byte of a listener: on a belt, that is a connection."""
        fd = _c.fileno(sock) if isinstance(sock, socket.socket) else -1  # other types only look like sockets
        intercepted = registry.find_any(fd)
        if intercepted is None or intercepted.inner is None:
            return lib_wrap(self, sock, *args, **more)
        registry.lend(fd)
        try:
            with socket.socket(sock.family, sock.type) as placeholder:
                os.dup2(placeholder.fileno(), fd, os.get_inheritable(fd))
            wrapped = lib_wrap(self, sock, *args, **more)
        finally:
            intercepted.put_under(fd)
            registry.add(fd, intercepted)
        registry.watch(wrapped, fd)
        settimeout(wrapped, _c.gettimeout(wrapped), intercepted)
        return wrapped

    module.SSLContext.wrap_socket = wrap_socket


def _install_on_gevent(module: Any) -> None:
    """Reach the sockets inside gevent's, which have a class of their own, derived from C's."""
    kind = gevent_internals.socket_class(module)
    if kind is None:
        return  # the program listens by itself
    replace(kind, *SAME, close)
    replace_accept(kind, accept_descriptor)


def close(self: Any) -> None:
    """As `_socket.socket.close`."""
    fd = _c.fileno(self)
    intercepted = registry.find(fd)
    _c.close(self)
    if intercepted is not None:
        registry.forget(fd)
