"""The belt: the SEQPACKET pair that carries connections of one listener to one worker.

HOT: every connection passes `Belt.send` and `Belt.receive` once. `system.packets` defines a message.

Invariant: a connection in a message belongs to exactly one of the two processes, the one whose `recvmsg` got
the message. The primary keeps a duplicate of the worker's end, so that it can read back what the worker did
not pick up. The worker keeps a duplicate of the primary's end, so that a program that selects on the belt
never sees end-of-file.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Sequence
from typing import Final

from everycore.system import packets
from everycore.system.descriptors import close_now
from everycore.system.packets import MOST_DESCRIPTORS, Packet
from everycore.system.strange import close_emptied, close_shared

#: The most connections in one message.
MOST_BATCH: Final = MOST_DESCRIPTORS
#: Seconds between two attempts to send a message that must not be lost, and the seconds after which the
#: sender gives up.
_AGAIN: Final = 0.005
PATIENCE: Final = 1.0
#: The errors of a belt that accepts messages again once some of them have been read.
_FULL: Final = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return the primary's end and the worker's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


class Belt:
    """The primary's end of a belt, with the duplicate of the worker's end."""

    __slots__ = ("ours", "theirs")

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.ours = ours
        self.theirs = theirs

    def send(self, message: bytes, fds: Sequence[int]) -> None:
        """Put one message on the belt. Raises BlockingIOError (full) or OSError (ETOOMANYREFS)."""
        packets.send(self.ours, message, fds)

    def receive(self) -> Packet | None:
        """Return the worker's next message, as `packets.receive` does."""
        return packets.receive(self.ours)

    def read_back(self) -> Packet | None:
        """Take back the oldest message that the worker has not read, as `packets.receive` does."""
        return packets.receive(self.theirs)

    def close(self) -> None:
        """Close both ends, with what the worker has sent. The worker may still read what lies on its end."""
        close_shared(self.theirs)  # first: after our end, the belt would look readable
        close_emptied(self.ours)

    def abandon(self) -> None:
        """In a forked child: close the child's copies of both ends."""
        close_now(self.ours)
        close_now(self.theirs)


def tell_primary_reliably(
    sock: socket.socket, message: bytes, fds: Sequence[int] = (), *, patience: float = PATIENCE
) -> bool:
    """As `tell_primary`, but try again for `patience` seconds. A second attempt is rarely needed.

    This is for messages that must not be lost.
    """
    deadline = time.monotonic() + patience
    while problem := _attempt(sock, message, fds):
        if problem not in _FULL or time.monotonic() >= deadline:
            return False
        time.sleep(_AGAIN)
    return True


def tell_primary(sock: socket.socket, message: bytes, fds: Sequence[int] = ()) -> bool:
    """Send a message from the worker to the primary. HOT: one acknowledgement for each batch.

    Returns False if the belt is full or gone. The primary notices either by itself.
    """
    try:
        packets.send(sock, message, fds)
    except OSError:
        return False
    return True


def _attempt(sock: socket.socket, message: bytes, fds: Sequence[int]) -> int:
    """Try once. Returns 0, or the errno that kept the message from being sent."""
    try:
        packets.send(sock, message, fds)
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0
