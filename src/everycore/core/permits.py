"""What a worker of another user may listen on.

One spelling for an address, whoever wrote it, so that two can be compared. Invariant: what can't be read is
no permit.

Why: a primary that starts as root and drops its workers' rights would else lend them its own: any of them
could have a privileged port, a path anywhere, or a descriptor of the primary.
"""

from __future__ import annotations

import ipaddress
from typing import Any, TypeAlias

#: (host, port), the bytes of an absolute path or an abstract name, or the number of a descriptor.
Permit: TypeAlias = tuple[str, int] | bytes | int


def permit_of(address: Any, fd: int | None = None) -> Permit | None:
    """The permit for an address as it travels, or for a descriptor; None: there can't be one."""
    if fd is not None:
        return fd
    if isinstance(address, str):
        return address.encode(errors="surrogateescape")
    if isinstance(address, bytes):
        return address
    if isinstance(address, (list, tuple)) and len(address) >= 2:
        try:
            return str(ipaddress.ip_address(address[0])), int(address[1])
        except ValueError:
            return None
    return None
