"""Who a client is, by its address: what the policy `sticky` goes by.

An IPv4 address, also one that is written as IPv6 (`::ffff:192.0.2.1`: the same client by a dual-stack
listener); of an IPv6 address the first 64 bits, since a host has many in its network and changes them (RFC
8981), but all 128 of a link-local one, for all of a link begin alike. Who comes by a unix socket has none.
"""

from __future__ import annotations

import functools
import socket
from typing import Any, Final

_MAPPED: Final = b"\0" * 10 + b"\xff\xff"
_LINK_LOCAL: Final = b"\xfe\x80"
_NETWORK: Final = 8
#: Hosts that are remembered.
_REMEMBERED: Final = 8192


def client_of(peer: Any) -> bytes | None:
    """The client behind the address of a peer, as `accept` returns it or as it goes on the wire.

    None: it has no address.
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
