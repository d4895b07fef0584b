"""From the arguments of `create_server` to the primary's listeners, for every event loop of everycore.

This checks the arguments, resolves names, and asks the primary. Names are resolved in the worker, as Node
does: the primary sees numeric addresses only, and never waits for a name server. Invariant: if one address
fails, the listeners granted for the others are given up.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

from everycore.core import wire
from everycore.errors import ChannelClosed
from everycore.system import sockets
from everycore.worker.listening.clustersocket import ClusterSocket

if TYPE_CHECKING:
    from everycore.worker.session import Session

S = TypeVar("S", bound=socket.socket)
#: Errors of an address that this machine does not have. asyncio leaves out such an address if there are
#: several; EADDRNOTAVAIL only since Python 3.13.
NOT_HERE: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


def is_ours(sock: Any) -> TypeGuard[ClusterSocket]:
    """Whether `sock` is a stream listener of the primary."""
    return isinstance(sock, ClusterSocket) and sock.type == socket.SOCK_STREAM


async def open_tcp(
    session: Session,
    host: Any,
    port: Any,
    *,
    family: int,
    flags: int,
    backlog: int,
    start: bool,
) -> list[ClusterSocket]:
    """A listener for every address of `host` and `port` that this machine has."""
    loop = asyncio.get_running_loop()
    infos = await resolve(loop, hosts_of(host), port, family=family, kind=socket.SOCK_STREAM, flags=flags)
    return await open_all(infos, partial(ask, session, backlog=backlog, start=start))


async def open_all(
    infos: Sequence[tuple[int, int, Any]], open_one: Callable[[int, int, Any], Awaitable[S]]
) -> list[S]:
    """Call `open_one(family, kind, address)` for each address that this machine has. All open, or none.

    Raises: the errors of `open_one`; an OSError of `NOT_HERE` if the machine has none of the addresses.
    """
    opened: list[S] = []
    try:
        for left, info in enumerate(infos, start=1 - len(infos)):
            try:
                opened.append(await open_one(*info))
            except OSError as exc:
                if exc.errno not in NOT_HERE or not (opened or left):
                    raise
    except BaseException:
        close_sockets(opened)
        raise
    return opened


async def open_unix(
    session: Session, path: str | bytes | os.PathLike[str], *, backlog: int, start: bool
) -> list[ClusterSocket]:
    """The listener on the path of a unix socket, as a list of one."""
    address = sockets.absolute_path(path)
    return [await ask(session, socket.AF_UNIX, socket.SOCK_STREAM, address, backlog=backlog, start=start)]


def close_sockets(opened: Iterable[socket.socket]) -> None:
    """Close every socket, and so give its listener up."""
    for sock in opened:
        sock.close()


def hosts_of(host: Any) -> list[Any]:
    """The `host` argument of `create_server`, as a list. None stands for every interface."""
    if host is None or host == "":
        return [None]
    return [host] if isinstance(host, str) else list(host)


async def resolve(
    loop: asyncio.AbstractEventLoop, hosts: Iterable[Any], port: Any, *, family: int, kind: int, flags: int
) -> list[tuple[int, int, Any]]:
    """The family, kind and address of each of the hosts' addresses, once each, in the resolver's order."""
    if isinstance(port, int) and not 0 <= port <= 65535:
        raise OverflowError("bind(): port must be 0-65535.")  # a resolver would take it modulo 65536
    answers = await asyncio.gather(*(_resolve_one(loop, host, port, family, kind, flags) for host in hosts))
    infos = dict.fromkeys((info[0], info[1], info[4]) for info in itertools.chain.from_iterable(answers))
    if not infos:
        raise OSError(f"getaddrinfo({hosts!r}) returned empty list")
    return list(infos)


async def _resolve_one(
    loop: asyncio.AbstractEventLoop, host: Any, port: Any, family: int, kind: int, flags: int
) -> list[Any]:
    """Resolve one host: a numeric address at once, a name in a thread."""
    try:
        return socket.getaddrinfo(host, port, family, kind, 0, flags | _NUMERIC)
    except (socket.gaierror, UnicodeError):
        return await loop.getaddrinfo(host, port, family=family, type=kind, flags=flags)


async def ask(
    session: Session, family: int, kind: int, address: Any, *, backlog: int, start: bool
) -> ClusterSocket:
    """Ask the primary for a listener. Raises ChannelClosed, and the OSError that `bind_error` makes."""
    request = wire.Listen(
        address=sockets.on_the_wire(address),
        family=family,
        kind=kind,
        backlog=sockets.checked_backlog(backlog),
        start=bool(start),
    )
    try:
        sock = await session.listen(request)
    except ChannelClosed:
        raise
    except OSError as exc:
        raise bind_error(exc, address) from None
    sock.setblocking(False)
    return sock


def bind_error(error: OSError, address: Any) -> OSError:
    """The error of a bind to `address`, worded as asyncio's own servers word it."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return OSError(error.errno, f"error while attempting to bind on address {address!r}: {reason}")
