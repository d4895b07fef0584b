"""UDP through the primary: one socket, shared by the workers.

This is `create_datagram_endpoint` for both of everycore's loops. Invariant: only a *bound, unconnected*
endpoint is shared. An endpoint that sends from a port of its own (no `local_addr`), is connected, or asks for
`reuse_port` is this worker's alone, as Node's implicit bind is. The kernel gives each datagram to one of the
readers.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from everycore.core import wire
from everycore.system import sockets
from everycore.worker.loops import resolving

if TYPE_CHECKING:
    import asyncio

    from everycore.worker.session import Session

Endpoint = Callable[..., Awaitable[tuple[Any, Any]]]


def goes_through_primary(local_addr: Any, remote_addr: Any, more: dict[str, Any]) -> bool:
    """Whether an endpoint with these arguments is shared."""
    return bool(local_addr) and not (remote_addr or more.get("sock") is not None or more.get("reuse_port"))


#: The keywords of `create_datagram_endpoint`. A keyword that is not listed never reaches a shared endpoint.
_KEYWORDS: Final = frozenset({"family", "proto", "flags", "reuse_port", "allow_broadcast", "sock"})


def check(local_addr: Any, more: dict[str, Any]) -> None:
    """Raise TypeError for arguments that asyncio would refuse."""
    if unknown := more.keys() - _KEYWORDS:
        raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
    is_pair = isinstance(local_addr, (tuple, list)) and len(local_addr) == 2
    if not is_pair and more.get("family") != socket.AF_UNIX:
        raise TypeError("2-tuple is expected")


async def open_endpoint(
    loop: asyncio.AbstractEventLoop,
    session: Session,
    inherited: Endpoint,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    local_addr: Any,
    more: dict[str, Any],
) -> tuple[Any, Any]:
    """The endpoint, on the primary's socket. Raises the OSError that a lone process would get."""
    family, address = await where(loop, local_addr, more)
    listener = await resolving.ask(session, family, socket.SOCK_DGRAM, address, backlog=0, start=True)
    try:
        if more.get("allow_broadcast"):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        listener.tell_primary(wire.Serve(1))
        transport, protocol = await inherited(protocol_factory, sock=listener)
    except BaseException:
        listener.close()
        raise
    session.departure.watch_server(transport)
    return transport, protocol


async def where(loop: asyncio.AbstractEventLoop, local_addr: Any, more: dict[str, Any]) -> tuple[int, Any]:
    """The family and address to bind, from the arguments of `create_datagram_endpoint`. Raises TypeError."""
    check(local_addr, more)
    family = more.get("family") or 0
    if family == socket.AF_UNIX:
        return socket.AF_UNIX, sockets.absolute_path(local_addr)
    host, port = local_addr
    infos = await resolving.resolve(
        loop, [host], port, family=family, kind=socket.SOCK_DGRAM, flags=more.get("flags") or 0
    )
    found, _, address = infos[0]
    return found, address
