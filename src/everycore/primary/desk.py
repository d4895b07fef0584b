"""What a worker asks by its link about sockets of its program's own making (`everycore run`).

Job: `bind`, and the options of a listener, on behalf of a program that knows nothing of a cluster; and how
any request is refused.
Invariant: the descriptors that came with a request are ours, and closed here unless the switchboard took
them. Must not import the worker's side.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

from everycore.core import wire
from everycore.errors import ProtocolError
from everycore.primary.switchboard import Grant, Switchboard

#: The largest socket option that travels, in bytes.
_LARGEST_OPTION = 1024


#: What a request can be refused for: the kernel says no, or it holds what no C function takes, such as a
#: number that is too large, or a path where a host belongs.
REFUSABLE: Final = (OSError, OverflowError, ValueError, TypeError, IndexError)


def refusal(request: int, exc: BaseException) -> wire.Refused:
    """The answer to request number `request`, which one of `REFUSABLE` has ended."""
    if isinstance(exc, OSError):
        return wire.Refused(request, exc.errno or errno.EINVAL, exc.strerror or str(exc))
    return wire.Refused(request, errno.EINVAL, str(exc))


def bind(switchboard: Switchboard, worker: int, request: wire.Bind, fds: list[int]) -> Grant:
    """Bind the socket that came with `request`. Raises OSError, or ProtocolError without exactly one."""
    if len(fds) != 1:
        raise ProtocolError(f"Bind came with {len(fds)} descriptors")
    try:
        given = socket.socket(fileno=fds[0])
    except OSError as exc:
        raise ProtocolError(f"Bind came with something else than a socket: {exc}") from exc
    fds.clear()
    return switchboard.bind(worker, request, given)


def option(switchboard: Switchboard, worker: int, request: wire.SetOption | wire.GetOption) -> Any:
    """Set or read an option of a listener that `worker` holds; returns the reply. Raises OSError."""
    sock = switchboard.listener_of(worker, request.listener)
    if isinstance(request, wire.SetOption):
        sock.setsockopt(request.level, request.option, request.value)
        return wire.Done()
    size = min(max(request.size, 1), _LARGEST_OPTION)
    return wire.Option(sock.getsockopt(request.level, request.option, size))
