"""What a worker of another user may have of the primary: which addresses, and which options of a listener.

One spelling for an address, whoever wrote it, so that two can be compared. Invariant: what can't be read is
no permit; and a permit only selects: what is bound is the address as the settings have it.

Why: a primary that starts as root and drops its workers' rights would else lend them its own: any of them
could have a privileged port, a path anywhere, or a descriptor of the primary. An option is set with the
primary's rights too: some need a capability (SO_MARK), and some take pointers and descriptors of the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

#: (host, port), the bytes of an absolute path or an abstract name, or the number of a descriptor.
Permit: TypeAlias = tuple[str, int] | bytes | int
#: What a worker may listen on -> the address as the settings have it (a descriptor: itself).
Permits: TypeAlias = Mapping[Permit, Any]

# Levels and options by the kernel's numbers (asm-generic/socket.h, linux/tcp.h, linux/in6.h).
_SOCKET: Final = 1
_TCP: Final = 6
_IPV6: Final = 41
_SEND_BUFFER, _RECEIVE_BUFFER = (_SOCKET, 7), (_SOCKET, 8)
#: SO_KEEPALIVE; TCP_NODELAY, KEEPIDLE, KEEPINTVL, KEEPCNT, DEFER_ACCEPT, QUICKACK, USER_TIMEOUT, FASTOPEN:
#: plain numbers, of which accepted connections inherit most.
INHERITED: Final = frozenset({(_SOCKET, 9), *((_TCP, option) for option in (1, 4, 5, 6, 9, 12, 18, 23))})
_MAY_SET: Final = INHERITED | {_SEND_BUFFER, _RECEIVE_BUFFER}
#: SO_REUSEADDR, TYPE, ERROR, LINGER, REUSEPORT, ACCEPTCONN, PROTOCOL, DOMAIN; IPV6_V6ONLY.
_MAY_READ: Final = _MAY_SET | {(_SOCKET, option) for option in (2, 3, 4, 13, 15, 30, 38, 39)} | {(_IPV6, 26)}


def permit_of(address: Any, fd: int | None = None, *, is_v6: bool = False) -> Permit | None:
    """The permit for an address as it travels, or for a descriptor; None: there can't be one.

    is_v6: what an empty host means.
    """
    if fd is not None:
        return fd
    if isinstance(address, str):
        return address.encode(errors="surrogateescape")
    if isinstance(address, bytes):
        return address
    if isinstance(address, (list, tuple)) and len(address) >= 2:
        import ipaddress  # late: only workers of another user need it

        host = address[0] or ("::" if is_v6 else "0.0.0.0")
        try:
            # The name of an interface is the settings' affair: it is bound as it stands there.
            return str(ipaddress.ip_address(host)).partition("%")[0], int(address[1])
        except ValueError:
            return None
    return None


def may_set(level: int, option: int) -> bool:
    """Whether a worker of another user may set this option of a listener that it holds."""
    return (level, option) in _MAY_SET


def may_read(level: int, option: int) -> bool:
    """Whether it may read it."""
    return (level, option) in _MAY_READ
