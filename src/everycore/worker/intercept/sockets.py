"""Makes the plain sockets of a program listen through the primary: `everycore run`.

Replace methods of `socket.socket`, so that a program that knows nothing of a cluster listens there.
Invariant: a socket that was not bound through the primary behaves as ever, at the price of one dictionary
look-up a call; and no class is replaced: `isinstance`, pickling, `from socket import socket`, the ancestry of
`SSLSocket` and trio's check of the exact type all go on to work. (Measured on a prototype: a replaced class
broke each of these.)

What a program sees: `bind` to a port asks the primary at once, so that an address in use is an error where
programs expect it; `bind` to port 0 does so when the number is asked for or `listen` is called, for most such
sockets are clients'. The worker's end of a belt is then put under the program's descriptor (dup2), so that
number, family and type stay, and readiness is the belt's; `accept` reads from it. A socket with SO_REUSEPORT,
of another family, or a datagram socket on port 0, is the program's own affair.

asyncio's selector loops, uvloop, TLS and gevent need more: `worker.intercept.for_asyncio`,
`worker.intercept.for_uvloop`, `worker.intercept.for_libraries`.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from everycore.core import wire
from everycore.errors import ChannelClosed
from everycore.foreign.socket_internals import Accept
from everycore.system.sockets import remove_stale
from everycore.worker.intercept.addresses import cluster_address, new_file_mode, working_directory
from everycore.worker.intercept.intercepted import InterceptedSocket, Registry
from everycore.worker.listening.clustersocket import VERY_LONG, SharedSocket

if TYPE_CHECKING:
    from everycore.worker.session import Session

#: The methods as C has them: `socket.socket` inherits all but four of those replaced here.
_c: Final = _socket.socket
_lib_init: Final = socket.socket.__init__
_lib_accept: Final = socket.socket.accept
_INT: Final = struct.Struct("i")
_BACKLOG: Final = min(socket.SOMAXCONN, 128)

registry: Final = Registry()
_session: Session | None = None
_lock = threading.RLock()


def go_through(session: Session | None) -> None:
    """New sockets of this process go through the primary by this session from now on; None: not any more."""
    global _session
    _session = session


def is_installed() -> bool:
    """Whether new sockets of this process go through the primary: not in a forked child."""
    return _session is not None


def replace(kind: type, *functions: Callable[..., Any]) -> None:
    """Put them into a class, each under its name."""
    for function in functions:
        setattr(kind, function.__name__, function)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def __init__(  # noqa: N807 - it is to bear that name
    self: socket.socket, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
) -> None:
    """As `socket.socket`: of a number alone, the kernel would say what a belt is."""
    known = registry.find_any(fileno) if fileno is not None and family == -1 else None
    if known is not None and (inner := known.inner) is not None:
        family, type, proto = inner.family, inner.type, inner.proto  # noqa: A001
    _lib_init(self, family, type, proto, fileno)


# --- binding ------------------------------------------------------------------------------------------------


def bind(self: socket.socket, address: Any, /) -> None:
    """As `socket.bind`."""
    if registry.find_any(_c.fileno(self)) is not None:
        raise _error(errno.EINVAL)
    where = None if _session is None else cluster_address(self, address)
    if where is None:
        _c.bind(self, address)
        return
    with _lock:
        if isinstance(where, list) and where[1] == 0:
            _try(self, address)
            _enter(self, InterceptedSocket(_c.fileno(self), where))
            return
        intercepted = InterceptedSocket(_c.fileno(self), where)
        name = None if isinstance(where, list) else _raw(address)
        if not _ask(self, intercepted, name):
            _c.bind(self, address)
            return
        if name is not None:
            intercepted.name = name if name[:1] == b"\0" else os.fsdecode(name)
        _enter(self, intercepted)
        if self.type == socket.SOCK_DGRAM:
            _begin(intercepted, 0)


def bind_path(sock: socket.socket, path: str | bytes) -> None:
    """Bind a unix socket as event loops do: over a dead file, and with asyncio's own words for an error."""
    try:
        try:
            sock.bind(path)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            remove_stale(os.fsencode(path), socket.SOCK_STREAM)
            sock.bind(path)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
        raise


def _raw(path: str | bytes | bytearray) -> bytes:
    return os.fsencode(path) if isinstance(path, str) else bytes(path)


def _enter(sock: socket.socket, intercepted: InterceptedSocket) -> None:
    fd = _c.fileno(sock)
    registry.add(fd, intercepted)
    registry.watch(sock, fd)


def _try(sock: socket.socket, address: Any) -> None:
    """Raise what binding would raise; the port is chosen later."""
    with socket.socket(sock.family, sock.type) as probe:
        _c.bind(probe, address)


def _ask(sock: socket.socket, intercepted: InterceptedSocket, name: bytes | None = None) -> bool:
    """Let the primary bind `sock`. False: this worker is leaving, and the kernel shall have its way.

    `name`: of a unix socket, as the program has it; it is what clients see of it too.
    """
    assert _session is not None
    request = wire.Bind(intercepted.address)
    if sock.family == socket.AF_UNIX:
        request = wire.Bind(intercepted.address, new_file_mode(), working_directory(), name)
    try:
        inner = _session.grants.bind(request, _c.fileno(sock))
    except ChannelClosed:
        return False
    except OSError as exc:
        if exc.errno == errno.ECANCELED:
            return False
        raise _error(exc.errno or errno.EINVAL) from None
    if inner.grant is not None:
        inner.grant.proto = sock.proto  # for connections: 0 stays 0, as with accept(2)
    intercepted.put_listener(inner)
    registry.granted(intercepted)
    # The blocking mode belongs to the file, and that is another one now.
    settimeout(sock, _c.gettimeout(sock), intercepted)
    return True


def _reserve(sock: socket.socket, intercepted: InterceptedSocket) -> bool:
    """Have a port for a socket that was bound to any. False: it is an ordinary socket now."""
    with _lock:
        if intercepted.inner is not None:
            return True
        if _session is not None and _ask(sock, intercepted):
            return True
        _become_ordinary(sock, intercepted)
        return False


def _become_ordinary(sock: socket.socket, intercepted: InterceptedSocket) -> None:
    """Have the socket back from the primary: it is a client's after all. Raises OSError if others hold it."""
    fds = tuple(intercepted.fds)
    if intercepted.inner is None:
        for fd in fds:
            registry.forget(fd)
        _c.bind(sock, tuple(intercepted.address))
    elif _session is not None:
        own = _session.grants.take_back(intercepted.inner)
        for fd in fds:
            registry.forget(fd)
            os.dup2(own, fd, os.get_inheritable(fd))
        os.close(own)
        _c.settimeout(sock, gettimeout(sock))


def _renew(sock: socket.socket) -> None:
    """Put a new socket under the program's descriptor."""
    fd = _c.fileno(sock)
    with socket.socket(sock.family, sock.type, sock.proto) as fresh:
        os.dup2(fresh.fileno(), fd, os.get_inheritable(fd))
    _c.settimeout(sock, gettimeout(sock))


def getsockname(self: socket.socket, /) -> Any:
    """As `socket.getsockname`."""
    intercepted = registry.find(_c.fileno(self))
    if intercepted is None or (intercepted.inner is None and not _reserve(self, intercepted)):
        return _c.getsockname(self)
    return intercepted.name


# --- listening ----------------------------------------------------------------------------------------------


def listen(self: socket.socket, backlog: int = _BACKLOG, /) -> None:
    """As `socket.listen`."""
    intercepted = registry.find_any(_c.fileno(self))
    if intercepted is None or (intercepted.inner is None and not _reserve(self, intercepted)):
        _c.listen(self, backlog)
        serves_by_itself(self)
        return
    if not -(1 << 31) <= backlog < 1 << 31:
        _c.listen(self, backlog)  # which says so
    with _lock:
        if not intercepted.is_listening:
            _begin(intercepted, max(backlog, 0))


def _begin(intercepted: InterceptedSocket, backlog: int) -> None:
    try:
        intercepted.begin(backlog)
    except ChannelClosed:
        raise
    except OSError as exc:
        raise _error(exc.errno or errno.EINVAL) from None


def serves_by_itself(sock: Any) -> None:
    """Tell the primary of a listener of the program's own: it does not see it, but the program serves."""
    if _session is None or (
        sock.family == socket.AF_UNIX and cluster_address(sock, _c.getsockname(sock)) is None
    ):
        return
    try:
        _session.readiness.ready()
    except (OSError, ChannelClosed):
        return


def accept(self: socket.socket) -> tuple[socket.socket, Any]:
    """As `socket.accept`."""
    intercepted = registry.find_any(_c.fileno(self))
    if intercepted is None or not intercepted.is_listening:
        conn, peer = _lib_accept(self)
        _count(conn.fileno())
        return conn, peer
    inner = intercepted.inner
    assert inner is not None
    if isinstance(inner, SharedSocket):
        return inner.take(gettimeout(self))
    timeout = _c.gettimeout(self)
    if inner.gettimeout() != timeout:
        inner.settimeout(timeout)
    try:
        return inner.accept()
    except OSError as exc:
        if exc.errno == errno.EINVAL:  # it was shut down
            raise _error(errno.EINVAL) from None
        raise


def accept_descriptor(native: Accept, self: Any, /) -> tuple[int, Any]:
    """As the private method by which libraries accept that make socket objects of their own."""
    intercepted = registry.find_any(_c.fileno(self))
    if intercepted is None or not intercepted.is_listening:
        fd, peer = native(self)
        _count(fd)
        return fd, peer
    conn, peer = accept(self)
    return conn.detach(), peer


def _count(fd: int) -> None:
    """Count a connection of a listener that is the program's own (SO_REUSEPORT, another family)."""
    if _session is not None:
        _session.connections.watch_file(fd)


# --- what listeners are asked -------------------------------------------------------------------------------


def getpeername(self: socket.socket, /) -> Any:
    """As `socket.getpeername`: a listener has no peer, a belt has one."""
    intercepted = registry.find(_c.fileno(self))
    if intercepted is not None and intercepted.inner is not None:
        raise _error(errno.ENOTCONN)
    return _c.getpeername(self)


def getsockopt(self: socket.socket, level: int, option: int, *size: int) -> Any:
    """As `socket.getsockopt`."""
    intercepted = registry.find(_c.fileno(self))
    if intercepted is None or intercepted.is_shared or intercepted.inner is None:
        return _c.getsockopt(self, level, option, *size)
    grant = intercepted.inner.grant
    if level == socket.SOL_SOCKET and option == socket.SO_ERROR:
        return _c.getsockopt(self, level, option, *size)
    if (level == socket.SOL_SOCKET and option == socket.SO_ACCEPTCONN) or grant is None or _session is None:
        return intercepted.inner.getsockopt(level, option, *size)
    value = _session.grants.option(
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
    if grant is None or _session is None:
        return
    if value is None:
        data = bytes(size[0]) if size else b""
    else:
        data = _INT.pack(value) if isinstance(value, int) else bytes(value)
    _session.grants.option(wire.SetOption(grant.listener, level, option, data))


def settimeout(
    self: socket.socket, value: float | None, intercepted: InterceptedSocket | None = None, /
) -> None:
    """As `socket.settimeout`.

    Of a shared listener the open file, with its blocking mode, is everybody's: to block without limit is a
    very long time-out there.
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


# --- other uses, and the end --------------------------------------------------------------------------------


def connect(self: socket.socket, address: Any, /) -> None:
    """As `socket.connect`: what was bound is a client's after all."""
    intercepted = registry.find(_c.fileno(self))
    if intercepted is not None and not (intercepted.is_listening and self.type == socket.SOCK_STREAM):
        _become_ordinary(self, intercepted)
    _c.connect(self, address)


def connect_ex(self: socket.socket, address: Any, /) -> int:
    """As `socket.connect_ex`."""
    intercepted = registry.find(_c.fileno(self))
    if intercepted is not None and not (intercepted.is_listening and self.type == socket.SOCK_STREAM):
        _become_ordinary(self, intercepted)
    return _c.connect_ex(self, address)


def shutdown(self: socket.socket, how: int, /) -> None:
    """As `socket.shutdown`: a listener ends for this process alone, and wakes whoever waits in `accept`."""
    fd = _c.fileno(self)
    intercepted = registry.find(fd)
    if intercepted is None or not intercepted.is_listening or intercepted.inner is None:
        _c.shutdown(self, how)
        return
    intercepted.inner.tell_primary_reliably(wire.Close())
    registry.when_closed()
    if intercepted.is_shared:
        _renew(self)
        registry.find(fd)  # forgets it: the file is another
    else:
        _c.shutdown(self, how)


#: What is C's in `socket.socket`, and in other children of C's class.
SAME: Final = (
    bind, listen, getsockname, getpeername, getsockopt, setsockopt, settimeout, setblocking,
    gettimeout, connect, connect_ex, shutdown,
)  # fmt: skip
