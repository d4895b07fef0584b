"""Messages with descriptors over a unix SEQPACKET pair, for the belt and the link.

One call for each kernel operation. HOT: every connection passes `send` and `receive` once; hence the bare
`socket` calls and the precomputed sizes.

Kernel facts relied upon: one reader reads a SEQPACKET message whole (unix(7)). The queue of a connected pair
is bounded by SO_SNDBUF alone, not by max_dgram_qlen. O_NONBLOCK belongs to the open file and is thus shared
by its duplicates, so every call passes MSG_DONTWAIT. A program under `everycore run` may have restored the
default of SIGPIPE, so every call passes MSG_NOSIGNAL.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence
from typing import Final

from everycore.system.strange import ROOM, descriptors_in

#: The most descriptors in one message of a peer that keeps to the protocol: the connections of a batch. The
#: buffer has room for all that a message may carry: otherwise the kernel would close the rest, and the caller
#: would wait for that.
MOST_DESCRIPTORS: Final = 16
#: A message is a number, a name and up to 16 peers; the path of a unix peer may have 108 bytes.
_LONGEST: Final = 8192
# Plain ints: the operators of enums cost more than the checks.
_SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RECEIVE: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_TRUNCATED: Final = int(socket.MSG_CTRUNC)

#: The bytes of a message, its descriptors, and whether some were lost (MSG_CTRUNC).
Packet = tuple[bytes, list[int], bool]


def send(sock: socket.socket, message: bytes, fds: Sequence[int] = ()) -> None:
    """Send one message. Raises BlockingIOError (full) or OSError (ETOOMANYREFS; EPIPE: no reader)."""
    if fds:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        sock.sendmsg((message,), (rights,), _SEND)
    else:
        sock.send(message, _SEND)


def receive(sock: socket.socket, flags: int = _RECEIVE) -> Packet | None:
    """Return the next message; None at end-of-file. Raises BlockingIOError if there is none yet."""
    data, ancillary, message_flags, _ = sock.recvmsg(_LONGEST, ROOM, flags)
    if not data and not ancillary:
        return None
    return data, descriptors_in(ancillary), bool(message_flags & _TRUNCATED)
