"""Descriptors on their way to another process, and what they become there.

Duplicate at the call, tell a socket from anything else, close without fuss. Invariant: whoever holds a number
from here closes it exactly once.
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
    """A descriptor that is no socket: a file, a pipe. Closed when nobody holds it any more."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The number, or -1 after `close()` or `detach()`."""
        return self._fd

    def detach(self) -> int:
        """Hand the number over: the caller closes it."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close it; again: nothing happens."""
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
    """Put /dev/null where this process has closed a standard stream.

    What it opens next would else get that number: a client's connection, or the channel of another worker,
    which a worker then inherits as its stdin.
    """
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) < FIRST_OTHER:
        os.set_inheritable(fd, True)
    os.close(fd)


def duplicate(fd: int) -> int:
    """Another number for the same open file, close-on-exec (fcntl(2), F_DUPFD_CLOEXEC)."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_OTHER)


def close_all(fds: Iterable[int]) -> None:
    """Close each; a number that is already closed is skipped."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            continue


def close_now(sock: socket.socket) -> None:
    """Close the number of `sock` at once, and take it from the object.

    For the copies of a forked child. `sock.close()` may wait for somebody who still uses the object, a loop
    of the parent's for instance; and an object that kept the number would close it later, when it belongs to
    another.
    """
    close_all((sock.detach(),))


def is_socket(fd: int) -> bool:
    """Whether `fd` is a socket (fstat(2)). Raises OSError (EBADF) for a closed number."""
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


#: What names an open socket as long as it is open: its device and inode (no two sockets share them).
SocketFile = tuple[int, int]


def socket_file(fd: int) -> SocketFile | None:
    """The socket behind `fd` (fstat(2)); None for a closed number, and for what is no socket."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def open_numbers() -> list[int]:
    """The numbers that this process has open (proc(5), /proc/self/fd); none where /proc is not mounted."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return []


def numbers_of_sockets() -> dict[SocketFile, int]:
    """A number for each socket that this process has open, as `open_numbers`.

    Costs 3.5 us for each open number.
    """
    found = {}
    for number in open_numbers():
        file = socket_file(number)
        if file is not None:
            found[file] = number
    return found


def wrap(fd: int) -> socket.socket | Descriptor:
    """Own `fd` as what it is: a `socket.socket` of its real family and type, or a `Descriptor`.

    The family, type and protocol come from SO_DOMAIN, SO_TYPE and SO_PROTOCOL: that is what `socket.socket`
    does with `fileno=` alone.
    """
    return socket.socket(fileno=fd) if is_socket(fd) else Descriptor(fd)


def fileno_of(handle: Any) -> int:
    """The descriptor of `handle`; TypeError, ValueError or OSError (EBADF) if it has none.

    Transports and asyncio stream writers are refused: bytes in their buffers would be lost. So are the
    socket that a transport shows (it has no `close`: the transport still uses it) and a TLS socket (its
    keys stay here).
    """
    if isinstance(handle, int) or not hasattr(handle, "fileno"):
        hint = ""
        if hasattr(handle, "get_extra_info"):
            hint = (
                ": what it has read and not yet written would be lost; send the socket before it is wrapped"
            )
        msg = f"a handle must be a socket, a file or a Descriptor, not {type(handle).__name__}{hint}"
        raise TypeError(msg)
    if not hasattr(handle, "close") or hasattr(handle, "selected_alpn_protocol"):
        msg = f"a {type(handle).__name__} can't be sent: something in this process goes with it"
        raise TypeError(msg)
    fd = handle.fileno()
    if not isinstance(fd, int) or fd < 0:
        raise os_error(errno.EBADF)
    os.fstat(fd)
    return fd


def close_sent(handle: Any) -> None:
    """Close the sender's own object, so that using it later is OSError (EBADF).

    A socket and a `Descriptor` are detached first: their `close` may wait for files made of them.
    """
    if isinstance(handle, (socket.socket, Descriptor)):
        os.close(handle.detach())
    else:
        handle.close()


def empty_out(fds: Iterable[int], like: int) -> None:
    """Close those of `fds` that are the same file as `like`, and keep their numbers in use, for nothing."""
    for fd in fds:
        with contextlib.suppress(OSError):
            if os.path.sameopenfile(fd, like):
                nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                os.dup2(nothing, fd, inheritable=False)
                os.close(nothing)
