"""A client's identity by its address, for the policy `sticky`.

The identity is an IPv4 address; `::ffff:192.0.2.1`, from a dual-stack listener, counts as that IPv4 address.
It is the first 64 bits of an IPv6 address, since a host has many addresses in its network and changes them
(RFC 8981). It is all 128 bits of a link-local address, since all addresses of a link begin alike. A client on
a unix socket has no identity.
"""

from __future__ import annotations

import functools
import socket
from typing import Any, Final

_MAPPED: Final = b"\0" * 10 + b"\xff\xff"
_LINK_LOCAL: Final = b"\xfe\x80"
_NETWORK: Final = 8
#: The number of hosts that are remembered.
_REMEMBERED: Final = 8192


def client_of(peer: Any) -> bytes | None:
    """The identity of the client at `peer`, an address as `accept` returns it or as it goes on the wire.

    None if the peer has no address.
    """
    return _client_of_host(peer[0]) if isinstance(peer, (tuple, list)) else None


@functools.lru_cache(maxsize=_REMEMBERED)
def _client_of_host(host: str) -> bytes | None:
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        address = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):  # a worker that gives a connection back may write anything
        return None
    if address.startswith(_MAPPED):
        return address[len(_MAPPED) :]
    return address if address.startswith(_LINK_LOCAL) else address[:_NETWORK]
