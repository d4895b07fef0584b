"""The belt: the SEQPACKET pair that carries connections of one listener to one worker.

HOT: every connection passes `Belt.send` and `Belt.receive` once. What a message is: `system.packets`.

Invariant: a connection in a message belongs to exactly one of the two processes, whoever's `recvmsg` got
the message. The primary keeps a duplicate of the worker's end, so that it can read back what was not picked
up; the worker keeps one of the primary's end, so that the belt never shows end-of-file to a program that
selects on it.
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

#: Connections in one message at most.
MOST_BATCH: Final = MOST_DESCRIPTORS
#: Seconds between two attempts to say what must not be lost, and for which it is attempted.
_AGAIN: Final = 0.005
PATIENCE: Final = 1.0
#: A belt that takes something again when its messages were read.
_FULL: Final = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


def make_pair() -> tuple[socket.socket, socket.socket]:
    """The primary's end and the worker's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


class Belt:
    """The primary's end, with the duplicate of the worker's."""

    __slots__ = ("ours", "theirs")

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.ours = ours
        self.theirs = theirs

    def send(self, message: bytes, fds: Sequence[int]) -> None:
        """Put one message on the belt. Raises BlockingIOError (full) or OSError (ETOOMANYREFS)."""
        packets.send(self.ours, message, fds)

    def receive(self) -> Packet | None:
        """The worker's next message, as `packets.receive`."""
        return packets.receive(self.ours)

    def read_back(self) -> Packet | None:
        """The oldest message that the worker has not read, as `packets.receive`."""
        return packets.receive(self.theirs)

    def close(self) -> None:
        """Close both, and what the worker has said; it may still read what lies on its end."""
        close_shared(self.theirs)  # first: without ours it would look as if something lay there
        close_emptied(self.ours)

    def abandon(self) -> None:
        """In a forked child: close our copies of both."""
        close_now(self.ours)
        close_now(self.theirs)


def tell_primary_reliably(
    sock: socket.socket, message: bytes, fds: Sequence[int] = (), *, patience: float = PATIENCE
) -> bool:
    """As `tell_primary`, trying again for `patience` seconds. It hardly ever has to.

    For what must not be lost.
    """
    deadline = time.monotonic() + patience
    while problem := _attempt(sock, message, fds):
        if problem not in _FULL or time.monotonic() >= deadline:
            return False
        time.sleep(_AGAIN)
    return True


def tell_primary(sock: socket.socket, message: bytes, fds: Sequence[int] = ()) -> bool:
    """The worker tells the primary. HOT: an acknowledgement a batch.

    False if the belt is full or gone (the primary then finds out by itself).
    """
    try:
        packets.send(sock, message, fds)
    except OSError:
        return False
    return True


def _attempt(sock: socket.socket, message: bytes, fds: Sequence[int]) -> int:
    """What kept the message from being sent: an errno, or 0."""
    try:
        packets.send(sock, message, fds)
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0
