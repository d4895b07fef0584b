"""Makes the plain sockets of a program listen through the primary: `everycore run`.

This module replaces methods of `socket.socket`, for a program that knows nothing of a cluster. Invariant: a
socket that was not bound through the primary behaves as usual, at the price of one dictionary look-up per
call. No class is replaced, so `isinstance`, pickling, `from socket import socket`, the ancestry of
`SSLSocket` and trio's check of the exact type still work. (In a prototype, a replaced class broke each of
these.)

What a program sees: `bind` to a port asks the primary at once, so that "address in use" is raised where
programs expect it. `bind` to port 0 asks when the number is asked for or `listen` is called, because most
such sockets are clients'. The worker's end of a belt is then put under the program's descriptor (dup2):
number, family and type stay, readiness is the belt's, and `accept` reads from it. A socket with SO_REUSEPORT,
a socket of another family, and a datagram socket on port 0 are left to the program.

asyncio's selector loops, uvloop, TLS and gevent need more: see `worker.intercept.for_asyncio`,
`worker.intercept.for_uvloop` and `worker.intercept.for_libraries`.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from everycore.core import wire
from everycore.errors import ChannelClosed
from everycore.foreign.socket_internals import Accept
from everycore.kernel import os_error
from everycore.system.aliases import numbers_of
from everycore.system.sockets import remove_stale
from everycore.worker.intercept import state
from everycore.worker.intercept.addresses import (
    cluster_address,
    is_own_datagram_service,
    is_port_zero,
    new_file_mode,
    numeric_address,
    raw_path,
    working_directory,
)
from everycore.worker.intercept.intercepted import InterceptedSocket
from everycore.worker.intercept.options import (
    getpeername,
    getsockopt,
    gettimeout,
    setblocking,
    setsockopt,
    settimeout,
)
from everycore.worker.intercept.state import registry
from everycore.worker.listening.clustersocket import SharedSocket

#: The methods of the C class: `socket.socket` inherits all but four of those replaced here.
_c: Final = _socket.socket
_lib_init: Final = socket.socket.__init__
_lib_accept: Final = socket.socket.accept
_BACKLOG: Final = min(socket.SOMAXCONN, 128)

#: A program that has listened for this many seconds has opened all its services.
_SERVICES_ARE_OPEN: Final = 2.0
_lock = threading.RLock()
#: Counts the requests for port 0.
_ports_zero = itertools.count()


class _OurLoop(threading.local):
    """The sockets that a loop of ours makes listen in this thread now; None if no loop does."""

    listeners: list[InterceptedSocket] | None = None


_our_loop: Final = _OurLoop()


def replace(kind: type, *functions: Callable[..., Any]) -> None:
    """Put the functions into a class, each under its name."""
    for function in functions:
        setattr(kind, function.__name__, function)


def __init__(  # noqa: N807 - the replaced method's name
    self: socket.socket, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
) -> None:
    """As `socket.socket`. For a number alone, the kernel would describe the belt."""
    known = registry.find_any(fileno) if fileno is not None and family == -1 else None
    if known is not None and (inner := known.inner) is not None:
        family, type, proto = inner.family, inner.type, inner.proto  # noqa: A001
    _lib_init(self, family, type, proto, fileno)


# --- binding ------------------------------------------------------------------------------------------------


def bind(self: socket.socket, address: Any, /) -> None:
    """As `socket.bind`."""
    if registry.find_any(_c.fileno(self)) is not None:
        raise os_error(errno.EINVAL)
    where = None if state.session is None else cluster_address(self, address)
    if where is None or (is_port_zero(where) and _is_own_affair()):
        _c.bind(self, address)
        if is_own_datagram_service(self, address):
            serves_by_itself(self)
        return
    with _lock:
        if is_port_zero(where):
            _try(self, address)
            _enter(self, InterceptedSocket(_c.fileno(self), where))
            return
        intercepted = InterceptedSocket(_c.fileno(self), where)
        name = None if isinstance(where, list) else raw_path(address)
        if not _ask(self, intercepted, name):
            _c.bind(self, address)
            return
        if name is not None:
            intercepted.name = name if name[:1] == b"\0" else os.fsdecode(name)
        _enter(self, intercepted)
        if self.type == socket.SOCK_DGRAM:
            _begin(intercepted, 0)


def _is_own_affair() -> bool:
    """Whether a bind to port 0 is now this worker's own: for a client or a helper, rather than a service.

    A program opens its services one after the other, and then serves: it takes connections, or waits for
    them.
    """
    if state.session is None or state.port_zero != "auto":
        return state.port_zero == "own"
    since = state.session.readiness.listens_since
    return since is not None and (
        state.session.connections.has_seen or time.monotonic() - since > _SERVICES_ARE_OPEN
    )


def bind_path(sock: socket.socket, path: str | bytes) -> None:
    """Bind a unix socket as event loops do: replace a stale file, and use asyncio's texts for errors."""
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


def _enter(sock: socket.socket, intercepted: InterceptedSocket) -> None:
    fd = _c.fileno(sock)
    registry.add(fd, intercepted)
    registry.watch(sock, fd)


def _try(sock: socket.socket, address: Any) -> None:
    """Raise what binding would raise. The port is chosen later."""
    with socket.socket(sock.family, sock.type) as probe:
        _c.bind(probe, address)


def _ask(sock: socket.socket, intercepted: InterceptedSocket, name: bytes | None = None) -> bool:
    """Make the primary bind `sock`. Returns False if this worker is leaving: the kernel binds it then.

    `name`: the program's name for a unix socket, which clients see too.
    """
    assert state.session is not None
    nth = next(_ports_zero) if is_port_zero(intercepted.address) else 0
    request = wire.Bind(intercepted.address, nth=nth)
    if sock.family == socket.AF_UNIX:
        request = wire.Bind(intercepted.address, new_file_mode(), working_directory(), name)
    copies = numbers_of(_c.fileno(sock))  # found before our own descriptor for the listener exists
    try:
        inner = state.session.grants.bind(request, _c.fileno(sock))
    except ChannelClosed:
        return False
    except OSError as exc:
        if exc.errno == errno.ECANCELED:
            return False
        raise os_error(exc.errno or errno.EINVAL) from None
    if inner.grant is not None:
        inner.grant.proto = sock.proto  # of accepted connections: 0 stays 0, as with accept(2)
    for fd in copies:  # made by the program itself
        registry.add(fd, intercepted)
    intercepted.put_listener(inner)
    registry.granted(intercepted)
    # The blocking mode belongs to the file, which is another one now.
    settimeout(sock, _c.gettimeout(sock), intercepted)
    return True


def _reserve(sock: socket.socket, intercepted: InterceptedSocket) -> bool:
    """Get a port for a socket that was bound to port 0. Returns False if it is an ordinary socket now."""
    with _lock:
        if intercepted.inner is not None:
            return True
        if state.session is not None and _ask(sock, intercepted):
            return True
        _become_ordinary(sock, intercepted)
        return False


def _become_ordinary(sock: socket.socket, intercepted: InterceptedSocket) -> None:
    """Get the socket back from the primary: it is a client's. Raises OSError if other workers hold it."""
    fds = tuple(intercepted.fds)
    if intercepted.inner is None:
        for fd in fds:
            registry.forget(fd)
        _c.bind(sock, tuple(intercepted.address))
    elif state.session is not None:
        own = state.session.grants.take_back(intercepted.inner)
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
        _c.listen(self, backlog)  # raises the error
    with _lock:
        if not intercepted.is_listening:
            _begin(intercepted, max(backlog, 0))


def _begin(intercepted: InterceptedSocket, backlog: int) -> None:
    loops = None if state.session is None else _our_loop.listeners
    try:
        intercepted.begin(backlog, by_our_loop=loops is not None)
    except ChannelClosed:
        raise
    except OSError as exc:
        raise os_error(exc.errno or errno.EINVAL) from None
    if loops is not None:
        loops.append(intercepted)


@contextlib.contextmanager
def by_our_loop() -> Iterator[None]:
    """In this block, a loop of ours takes the connections of what listens, if it asks for their source."""
    listeners: list[InterceptedSocket] = []
    before, _our_loop.listeners = _our_loop.listeners, listeners
    try:
        yield
    finally:
        _our_loop.listeners = before
        for intercepted in listeners:
            intercepted.serve_by_hand()


def serves_by_itself(sock: Any) -> None:
    """Tell the primary that the program serves on a listener of its own, which the primary cannot see."""
    if state.session is None or state.session.readiness.is_settled:
        return
    if sock.family == socket.AF_UNIX and cluster_address(sock, _c.getsockname(sock)) is None:
        return
    try:
        state.session.readiness.ready()
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
        if exc.errno == errno.EINVAL:  # the listener was shut down
            raise os_error(errno.EINVAL) from None
        raise


def accept_descriptor(native: Accept, self: Any, /) -> tuple[int, Any]:
    """As the private method by which libraries accept that make their own socket objects."""
    intercepted = registry.find_any(_c.fileno(self))
    if intercepted is None or not intercepted.is_listening:
        fd, peer = native(self)
        _count(fd)
        return fd, peer
    conn, peer = accept(self)
    return conn.detach(), peer


def _count(fd: int) -> None:
    """Count a connection of a listener that is the program's own (SO_REUSEPORT, another family)."""
    if state.session is not None:
        state.session.connections.watch_file(fd)


# --- other uses, and the end --------------------------------------------------------------------------------


def connect(self: socket.socket, address: Any, /) -> None:
    """As `socket.connect`. A socket that was bound before is a client's."""
    _become_client(self)
    if (error := _found_alone(self, address)) is not None:
        raise error
    _c.connect(self, address)


def connect_ex(self: socket.socket, address: Any, /) -> int:
    """As `socket.connect_ex`."""
    _become_client(self)
    error = _found_alone(self, address)
    return _c.connect_ex(self, address) if error is None else error.errno or errno.ECONNREFUSED


def _found_alone(sock: socket.socket, address: Any) -> OSError | None:
    """The error that the program would get if it were alone, and only other workers serve at `address`.

    A program connects to learn whether a port is free before it listens, or whether it has closed a port.
    """
    session = state.session
    if session is None or (session.readiness.has_listened and not state.left):
        return None
    where = numeric_address(sock, address)
    place = where[1] if isinstance(where, list) else where
    if where is None or (session.readiness.has_listened and place not in state.left):
        return None
    try:
        session.grants.check_connect(where)
    except (OSError, ChannelClosed) as exc:
        return os_error(errno.ECONNREFUSED) if exc.errno == errno.ECONNREFUSED else None
    return None


def _become_client(sock: socket.socket) -> None:
    intercepted = registry.find(_c.fileno(sock))
    if intercepted is not None and not (intercepted.is_listening and sock.type == socket.SOCK_STREAM):
        _become_ordinary(sock, intercepted)


def shutdown(self: socket.socket, how: int, /) -> None:
    """As `socket.shutdown`: a listener ends for this process only, and a thread waiting in `accept` wakes."""
    fd = _c.fileno(self)
    intercepted = registry.find(fd)
    if intercepted is None or not intercepted.is_listening or intercepted.inner is None:
        _c.shutdown(self, how)
        return
    intercepted.inner.tell_primary_reliably(wire.Close())
    registry.when_closed(intercepted)
    if intercepted.is_shared:
        _renew(self)
        registry.find(fd)  # forgets the entry: the file is another one
    else:
        _c.shutdown(self, how)


#: The methods that `socket.socket` and other classes derived from C's inherit.
SAME: Final = (
    bind, listen, getsockname, getpeername, getsockopt, setsockopt, settimeout, setblocking,
    gettimeout, connect, connect_ex, shutdown,
)  # fmt: skip
