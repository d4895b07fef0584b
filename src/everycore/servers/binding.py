"""Opens the addresses of `--bind`: through the primary in a worker, else in this process itself.

It turns `Bind`s into sockets, with an error that names the bind. Invariant: all of them open, or none.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from everycore.listening import BACKLOG, listen
from everycore.ops.job import STATUS_FAILED
from everycore.servers.binds import Bind, FdBind, TcpBind, UnixBind
from everycore.servers.loading import CannotBootError
from everycore.system.sockets import host_to_resolve


def open_sockets(
    binds: Sequence[Bind],
    *,
    backlog: int = BACKLOG,
    mode: int | None = None,
    kind: int = socket.SOCK_STREAM,
) -> list[socket.socket]:
    """A listening socket for every address of every bind. Raises CannotBootError.

    mode: the permissions of unix sockets. kind: SOCK_DGRAM for datagram sockets, which ignore the backlog.
    """
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for bind in binds:
            try:
                sockets.extend(opened.enter_context(sock) for sock in _open(bind, backlog, mode, kind))
            except OSError as error:
                raise CannotBootError(
                    f"cannot listen on {bind}: {_reason(bind, error)}", STATUS_FAILED
                ) from None
        opened.pop_all()
        return sockets


def _open(bind: Bind, backlog: int, mode: int | None, kind: int) -> Iterator[socket.socket]:
    match bind:
        case FdBind(fd):
            yield listen(fd=fd, kind=kind, backlog=backlog)
        case UnixBind(path):
            yield listen(path, kind=kind, backlog=backlog, mode=mode)
        case TcpBind(host, port):
            yield from _open_all(host, port, backlog, kind)


def _open_all(host: str, port: int, backlog: int, kind: int) -> Iterator[socket.socket]:
    """Listen on every address of a name, leaving out those that this machine lacks, if it has another.

    asyncio does the same: with IPv6 switched off, `localhost` still has an IPv6 address.
    """
    found = socket.getaddrinfo(host_to_resolve(host), port, type=kind, flags=socket.AI_PASSIVE)
    lacking: OSError | None = None
    opened = 0
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            sock = listen(address, family=family, kind=kind, backlog=backlog)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            lacking = error
        else:
            opened += 1
            yield sock
    if lacking is not None and not opened:
        raise lacking


def _reason(bind: Bind, error: OSError) -> str:
    if isinstance(bind, FdBind) and error.strerror and error.strerror.startswith("cannot listen on "):
        return error.strerror.partition(": ")[2]  # this part tells what is wrong with the descriptor
    if isinstance(error, socket.gaierror) or error.errno is None:
        text = error.strerror or str(error)
    else:
        text = os.strerror(error.errno)
    return text[:1].lower() + text[1:]
