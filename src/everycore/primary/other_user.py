"""What a worker of another user asks for, and what it may have.

Such a worker gets listeners that the primary has bound itself, at addresses that the settings name.
Invariant: nothing that the worker has written becomes a path, a port or an address.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Final

import msgspec

from everycore.core import wire
from everycore.core.permits import Permits, permit_of
from everycore.system.given import is_v6only
from everycore.system.sockets import describe, listen_error, off_the_wire, on_the_wire

_NOT_NAMED: Final = (
    "the worker runs as another user than the primary, and `addresses` (--permit) lacks this one"
)


def permitted(request: wire.Listen, permits: Permits) -> wire.Listen:
    """The worker's request, with the address as the settings have it.

    None of the worker's own bytes is used for the address. Raises OSError if the settings do not name it.
    """
    is_v6 = request.family == socket.AF_INET6
    permit = permit_of(request.address, request.fd, is_v6=is_v6)
    if permit is None or permit not in permits:
        address = off_the_wire(request.address)
        what = describe(address) if request.fd is None else f"descriptor {request.fd}"
        raise listen_error(errno.EACCES, what, _NOT_NAMED)
    address = None if request.fd is not None else on_the_wire(permits[permit])
    # An IPv6 socket takes IPv4 clients too, if the settings name that address as well.
    is_alone = not (isinstance(permit, tuple) and ("0.0.0.0", permit[1]) in permits)
    return msgspec.structs.replace(request, address=address, v6only=request.v6only or is_alone)


def as_listen(request: wire.Bind, given: socket.socket) -> wire.Listen:
    """The request of a program that binds its socket `given`: a listener that does not listen yet."""
    return wire.Listen(
        address=_place_of(request) if given.family == socket.AF_UNIX else request.address,
        family=given.family,
        kind=given.type,
        v6only=is_v6only(given),
        mode=request.mode,
        backlog=0,
        start=False,
    )


def _place_of(request: wire.Bind) -> Any:
    """The path that a worker asks for, perhaps relative to its folder. It is compared, and never used."""
    if request.folder is None or request.name is None or request.name.startswith(b"\0"):
        return request.address if request.name is None else request.name
    return os.path.normpath(os.path.join(request.folder, request.name))
