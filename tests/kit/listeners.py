"""What the kernel says of a listening socket."""

import os
import socket
import stat
import struct


def waiting(listener: socket.socket) -> int:
    """The number of connections in its accept queue: `tcpi_unacked` of a listening TCP socket."""
    (count,) = struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28), 24)
    return int(count)


def connected(
    listener: socket.socket, address: object, timeout: float, source: str | None = None
) -> socket.socket:
    """A connection in the accept queue of `listener`, a socket of this process that nothing polls now.

    `connect` returns when the client is connected. Its last segment may still be on its way to the listener,
    since a kernel thread has to run for that; and the segment of the next client may overtake it.
    """
    before = waiting(listener)
    bound = None if source is None else (source, 0)
    sock = socket.create_connection(address, timeout, bound)  # type: ignore[arg-type]
    while waiting(listener) == before:
        os.sched_yield()
    return sock


def listening_sockets(port: int) -> list[socket.socket]:
    """Duplicates of this process's listeners on `port`."""
    found: list[socket.socket] = []
    seen: set[int] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:
            continue
        if not stat.S_ISSOCK(status.st_mode) or status.st_ino in seen:
            continue
        seen.add(status.st_ino)
        sock = socket.socket(fileno=os.dup(int(name)))
        try:
            fits = bool(
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and sock.getsockname()[1] == port
            )
        except (OSError, IndexError):
            fits = False
        if fits:
            found.append(sock)
        else:
            sock.close()
    return found


def backlog_of(sock: socket.socket) -> int:
    """The kernel's limit of the accept queue: `tcpi_sacked` of a listening socket, as `ss` shows it."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    return struct.unpack_from("I", info, 28)[0]
