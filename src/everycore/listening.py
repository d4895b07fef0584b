"""`listen`: a listening socket, the blocking primitive under everything else, for any program.

In a worker it asks the primary; anywhere else it makes an ordinary socket. The arguments mean the same in
both cases.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from everycore import current
from everycore.core import wire
from everycore.errors import ConfigurationError
from everycore.settings import check_count, check_seconds
from everycore.system import sockets

#: The backlog that most servers ask for. The kernel caps it (net.core.somaxconn).
BACKLOG = 2048


def listen(
    address: tuple[Any, ...] | str | bytes | os.PathLike[str] | None = None,
    *,
    fd: int | None = None,
    family: int | None = None,
    kind: int = socket.SOCK_STREAM,
    backlog: int = BACKLOG,
    v6only: bool | None = None,
    mode: int | None = None,
    exclusive: bool = False,
    timeout: float = 30.0,
) -> socket.socket:
    """A listening socket on `address`. In a worker, the primary listens and this is a `ClusterSocket`.

    address: (host, port), or the path of a unix socket. If the host has several addresses, the first is used.
        With port 0, the n-th such call of every worker gets the same n-th port.
    fd: instead of an address, a descriptor *of the primary*: a bound socket.
    family: `AF_INET`, `AF_INET6` or `AF_UNIX`. None means what the address says.
    kind: `SOCK_STREAM`, or `SOCK_DGRAM` for a bound UDP or unix datagram socket.
    backlog: the backlog of the first listen on this address. The kernel caps it (`net.core.somaxconn`).
    v6only: False lets an IPv6 socket take IPv4 too. None means True, as in `asyncio.start_server`.
    mode: the permissions of a unix socket's file. None means what the umask says.
    exclusive: make this process's own socket, without the primary.
    timeout: how long to wait for the primary, in seconds.

    Raises: the OSError of `bind` or `listen`, ConfigurationError, TimeoutError, ChannelClosed.
    """
    check_seconds("timeout", timeout)
    request = request_for(address, fd=fd, family=family, kind=kind, backlog=backlog, v6only=v6only, mode=mode)
    session = current.session()
    if session is None or exclusive:
        return _own(sockets.off_the_wire(request.address), request)
    return session.grants.listen_blocking(request, timeout)


def request_for(
    address: tuple[Any, ...] | str | bytes | os.PathLike[str] | None = None,
    *,
    fd: int | None = None,
    family: int | None = None,
    kind: int = socket.SOCK_STREAM,
    backlog: int = BACKLOG,
    v6only: bool | None = None,
    mode: int | None = None,
) -> wire.Listen:
    """The request that a worker sends to the primary. Raises OSError, ConfigurationError."""
    if (address is None) == (fd is None):
        raise ConfigurationError(
            "listen",
            "takes either an address or fd=, not both" if fd is not None else "needs an address or fd=",
        )
    backlog = sockets.checked_backlog(check_count("backlog", backlog, least=0))
    if mode is not None and not 0 <= check_count("mode", mode, least=0) <= 0o777:
        raise ConfigurationError("mode", f"must be between 0 and 0o777, not {mode:#o}")
    for name, number in (("kind", kind), ("family", family or 0)):
        check_count(name, number, least=0)
    if fd is not None and (isinstance(fd, bool) or not isinstance(fd, int)):
        raise ConfigurationError("fd", f"must be the number of a descriptor, not {fd!r}")
    where, family = _resolve(address, family, kind) if address is not None else (None, family or 0)
    return wire.Listen(
        address=sockets.on_the_wire(where),
        family=family,
        kind=kind,
        fd=fd,
        backlog=backlog,
        v6only=v6only is not False,
        mode=mode,
    )


def _own(where: Any, request: wire.Listen) -> socket.socket:
    """An ordinary socket of this process."""
    if request.fd is not None:
        sock = sockets.adopt(request.fd, kind=request.kind, internal=())
    else:
        sock = sockets.bind(
            where, family=request.family, kind=request.kind, v6only=request.v6only, mode=request.mode
        )
    try:
        if request.kind == socket.SOCK_STREAM:
            sockets.start_listening(sock, request.backlog, sockets.describe(where, request.family))
    except BaseException:
        sock.close()
        raise
    return sock


def _resolve(address: Any, family: int | None, kind: int) -> tuple[Any, int]:
    """The address for `bind`, with a numeric host, and its family."""
    if isinstance(address, (str, bytes, os.PathLike)):
        if not os.fspath(address):
            raise ConfigurationError("address", "the path of a unix socket is empty")
        if b"\0" in os.fsencode(address)[1:]:
            raise ConfigurationError("address", f"there is a NUL in the path {address!r}")
        return sockets.absolute_path(address), socket.AF_UNIX
    if not isinstance(address, tuple) or len(address) not in (2, 4):
        raise ConfigurationError("address", f"must be (host, port) or a path, not {address!r}")
    host, port = address[0], address[1]
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigurationError("address", f"the port must be between 0 and 65535, not {port!r}")
    if kind not in sockets.KINDS:  # getaddrinfo would raise another error
        raise sockets.listen_error(errno.EOPNOTSUPP, sockets.describe(address))
    try:
        infos = socket.getaddrinfo(
            sockets.host_to_resolve(host) or None, port, family or 0, kind, 0, socket.AI_PASSIVE
        )
    except socket.gaierror as exc:
        raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {host}:{port}: {exc.strerror}") from None
    if not infos:
        raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {host}:{port}: the name has no address")
    found = infos[0][0]
    sockaddr: tuple[Any, ...] = infos[0][4]
    if len(address) == 4:
        sockaddr = (sockaddr[0], port, *address[2:])
    return sockaddr, found
