"""What the kernel says of a listening socket."""

import os
import socket
import struct


def waiting(listener: socket.socket) -> int:
    """How many connections are in its accept queue: `tcpi_unacked` of a listening TCP socket."""
    (count,) = struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28), 24)
    return int(count)


def connected(listener: socket.socket, address: object, timeout: float) -> socket.socket:
    """A connection that is in the accept queue of `listener`, a socket of this process that nobody polls now.

    `connect` returns when the client is connected. Its last segment may still be on its way to the listener,
    where a kernel thread has to run for that; and overtaken there by the next one's.
    """
    before = waiting(listener)
    sock = socket.create_connection(address, timeout=timeout)  # type: ignore[arg-type]
    while waiting(listener) == before:
        os.sched_yield()
    return sock
