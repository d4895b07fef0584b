"""How many connections wait in the backlog of a listener (tcp(7), TCP_INFO).

Facts: for a listening socket, `tcpi_unacked` is the length of its accept queue (net/ipv4/tcp.c,
tcp_get_info). For a unix socket the kernel tells this by netlink alone.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

_UNACKED: Final = struct.Struct("24xI")


def waiting_at(sock: socket.socket) -> int | None:
    """The number of connections that wait to be accepted; None if the kernel does not tell."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return None
    try:
        (waiting,) = _UNACKED.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size)[: _UNACKED.size]
        )
    except (OSError, struct.error):
        return None
    return int(waiting)
