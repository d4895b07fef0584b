"""Descriptors on their way to another process, and what they become there.

The functions here duplicate a descriptor at the call, tell a socket from anything else, and close quietly.
Invariant: the owner of a descriptor from here closes it exactly once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from everycore.kernel import FIRST_OTHER, os_error


class Descriptor:
    """A descriptor that is not a socket: a file or a pipe. It is closed with the last reference to it."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The number, or -1 after `close()` or `detach()`."""
        return self._fd

    def detach(self) -> int:
        """Hand the number over. The caller closes it."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor. Does nothing if it is already closed."""
        fd = self.detach()
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"<everycore.Descriptor fd={self._fd}>"


def fill_standard_streams() -> None:
    """Open /dev/null as each standard stream that this process lacks.

    Otherwise the next descriptor that it opens would get that number: a client's connection, or the channel
    of another worker, which a worker would then inherit as its stdin.
    """
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) < FIRST_OTHER:
        os.set_inheritable(fd, True)
    os.close(fd)


def duplicate(fd: int) -> int:
    """Return another descriptor of the same open file, close-on-exec (fcntl(2), F_DUPFD_CLOEXEC)."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_OTHER)


def close_all(fds: Iterable[int]) -> None:
    """Close each descriptor. One that is already closed is skipped."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            continue


def close_now(sock: socket.socket) -> None:
    """Close the descriptor of `sock` at once, and detach it from the object.

    This is for the copies of a forked child. `sock.close()` may wait for another user of the object, such as
    a loop of the parent. An object that kept the number would close it later, when it belongs to another
    file.
    """
    close_all((sock.detach(),))


def is_socket(fd: int) -> bool:
    """Whether `fd` is a socket (fstat(2)). Raises OSError (EBADF) for a closed number."""
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


#: The identity of a socket as long as it is open: its device and inode. No two sockets share them.
SocketFile = tuple[int, int]


def socket_file(fd: int) -> SocketFile | None:
    """The socket behind `fd` (fstat(2)); None if the number is closed or is not a socket."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def open_numbers() -> list[int]:
    """The descriptors that this process has open (proc(5), /proc/self/fd); empty without /proc."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return []


def numbers_of_sockets() -> dict[SocketFile, int]:
    """Map each socket that this process has open to one of its descriptors; empty without /proc.

    This costs 3.5 us for each open descriptor.
    """
    found = {}
    for number in open_numbers():
        file = socket_file(number)
        if file is not None:
            found[file] = number
    return found


def wrap(fd: int) -> socket.socket | Descriptor:
    """Own `fd` as what it is: a `socket.socket` of its real family and type, or a `Descriptor`.

    The family, type and protocol come from SO_DOMAIN, SO_TYPE and SO_PROTOCOL, as `socket.socket` does with
    `fileno=` alone.
    """
    return socket.socket(fileno=fd) if is_socket(fd) else Descriptor(fd)


def fileno_of(handle: Any) -> int:
    """The descriptor of `handle`. Raises TypeError, ValueError or OSError (EBADF) if it has none.

    Transports and asyncio stream writers are refused, since the bytes in their buffers would be lost. Two
    kinds of sockets are refused as well: the socket that a transport shows, which has no `close` because the
    transport still uses it, and a TLS socket, whose keys stay in this process.
    """
    if isinstance(handle, int) or not hasattr(handle, "fileno"):
        hint = ""
        if hasattr(handle, "get_extra_info"):
            hint = ": its unsent and unread data would be lost; send the socket before it is wrapped"
        msg = f"a handle must be a socket, a file or a Descriptor, not {type(handle).__name__}{hint}"
        raise TypeError(msg)
    if not hasattr(handle, "close") or hasattr(handle, "selected_alpn_protocol"):
        msg = f"a {type(handle).__name__} can't be sent: it depends on state of this process"
        raise TypeError(msg)
    fd = handle.fileno()
    if not isinstance(fd, int) or fd < 0:
        raise os_error(errno.EBADF)
    os.fstat(fd)
    return fd


def close_sent(handle: Any) -> None:
    """Close the sender's own object, so that later use of it raises OSError (EBADF).

    A socket and a `Descriptor` are detached first: their `close` may wait for files made from them.
    """
    if isinstance(handle, (socket.socket, Descriptor)):
        os.close(handle.detach())
    else:
        handle.close()


def empty_out(fds: Iterable[int], like: int) -> None:
    """Close each of `fds` that is the same file as `like`. Its number stays in use, for the null device."""
    for fd in fds:
        with contextlib.suppress(OSError):
            if os.path.sameopenfile(fd, like):
                nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                os.dup2(nothing, fd, inheritable=False)
                os.close(nothing)
