"""The belt: the SEQPACKET pair that carries connections of one listener to one worker.

Job: both ends of it, one call per kernel operation. HOT: clarity bows to speed here, because every connection
passes `Belt.send` and `receive` once; hence the bare `os` and `socket` calls and the precomputed sizes.

Invariant: a connection in a message belongs to exactly one of the two processes, whoever's `recvmsg` got
the message. The primary keeps a duplicate of the worker's end, so that it can read back what was not picked
up; the worker keeps one of the primary's end, so that the belt never shows end-of-file to a program that
selects on it.

Kernel facts relied upon: a SEQPACKET message is read whole by one reader (unix(7)); the queue of a
connected pair is bounded by SO_SNDBUF alone, not by max_dgram_qlen; O_NONBLOCK belongs to the open file and
is thus shared by the two duplicates, so the primary passes MSG_DONTWAIT instead of relying on it. Must not
import asyncio.
"""

from __future__ import annotations

import array
import errno
import socket
import time
from collections.abc import Sequence
from typing import Final

from everycore.system.descriptors import release

MOST_BATCH: Final = 16
_INT: Final = array.array("i").itemsize
_ROOM_FOR_BATCH: Final = socket.CMSG_SPACE(MOST_BATCH * _INT)
#: Seconds between two attempts to say what must not be lost, and for which it is attempted.
_AGAIN: Final = 0.005
PATIENCE: Final = 1.0
#: A belt that takes something again when its messages were read.
_FULL: Final = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
#: A message is a number, a name and up to 16 peers; a unix peer's path may have 108 bytes each.
_LONGEST: Final = 8192
# Plain ints: the enums' operators cost more than the checks.
_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_RECEIVE: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_RIGHTS: Final = (int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS))


def make_pair() -> tuple[socket.socket, socket.socket]:
    """The primary's end and the worker's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def _rights(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == _RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _INT])
    return fds.tolist()


def receive(
    sock: socket.socket, room: int = _ROOM_FOR_BATCH, flags: int = _RECEIVE
) -> tuple[bytes, list[int], bool] | None:
    """One message: its bytes, its descriptors, and whether descriptors were lost (MSG_CTRUNC).

    None at end-of-file. Raises BlockingIOError when there is none.
    """
    data, ancillary, message_flags, _ = sock.recvmsg(_LONGEST, room, flags)
    if not data and not ancillary:
        return None
    return data, _rights(ancillary), bool(message_flags & _TRUNCATED)


class Belt:
    """The primary's end, with the duplicate of the worker's."""

    __slots__ = ("ours", "theirs")

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.ours = ours
        self.theirs = theirs

    def send(self, message: bytes, fds: Sequence[int]) -> None:
        """Put one message on the belt. Raises BlockingIOError (full) or OSError (ETOOMANYREFS)."""
        if fds:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            self.ours.sendmsg((message,), (rights,), _DONTWAIT)
        else:
            self.ours.send(message, _DONTWAIT)

    def receive(self) -> tuple[bytes, list[int], bool] | None:
        """The worker's next word, as `receive`."""
        return receive(self.ours)

    def read_back(self) -> tuple[bytes, list[int], bool] | None:
        """The oldest message that the worker has not read, as `receive`."""
        return receive(self.theirs)

    def close(self) -> None:
        """Close both; what still lies on the belt is closed by the kernel."""
        self.ours.close()
        self.theirs.close()

    def abandon(self) -> None:
        """In a forked child: close our copies of both."""
        release(self.ours)
        release(self.theirs)


def say_surely(
    sock: socket.socket, message: bytes, fds: Sequence[int] = (), *, patience: float = PATIENCE
) -> bool:
    """As `say`, trying again for `patience` seconds: for what would be lost. It hardly ever has to."""
    deadline = time.monotonic() + patience
    while problem := _attempt(sock, message, fds):
        if problem not in _FULL or time.monotonic() >= deadline:
            return False
        time.sleep(_AGAIN)
    return True


def say(sock: socket.socket, message: bytes, fds: Sequence[int] = ()) -> bool:
    """The worker tells the primary.

    False if the belt is full or gone (the primary then finds out by itself).
    """
    return not _attempt(sock, message, fds)


def _attempt(sock: socket.socket, message: bytes, fds: Sequence[int]) -> int:
    """What kept the message from being sent: an errno, or 0."""
    try:
        if fds:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            sock.sendmsg((message,), (rights,), _DONTWAIT)
        else:
            sock.send(message, _DONTWAIT)
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0
