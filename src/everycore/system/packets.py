"""Messages with descriptors over a unix SEQPACKET pair: what the belt and the link are made of.

One call per kernel operation. HOT: every connection passes `send` and `receive` once; hence the bare `socket`
calls and the precomputed sizes.

Kernel facts relied upon: a SEQPACKET message is read whole by one reader (unix(7)); the queue of a connected
pair is bounded by SO_SNDBUF alone, not by max_dgram_qlen; O_NONBLOCK belongs to the open file and is thus
shared by its duplicates, so MSG_DONTWAIT is passed instead of relying on it. A program of `everycore run` may
have given SIGPIPE its default back.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence
from typing import Final

from everycore.system.strange import ROOM, descriptors_in

#: Descriptors in one message at most, of those who keep to the protocol: connections in a batch. There is
#: room for all that a message may carry: the kernel would close the others, and the caller wait for that.
MOST_DESCRIPTORS: Final = 16
#: A message is a number, a name and up to 16 peers; a unix peer's path may have 108 bytes each.
_LONGEST: Final = 8192
# Plain ints: the enums' operators cost more than the checks.
_SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RECEIVE: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_TRUNCATED: Final = int(socket.MSG_CTRUNC)

#: The bytes of a message, its descriptors, and whether some were lost (MSG_CTRUNC).
Packet = tuple[bytes, list[int], bool]


def send(sock: socket.socket, message: bytes, fds: Sequence[int] = ()) -> None:
    """Send one message. Raises BlockingIOError (full), OSError (ETOOMANYREFS; EPIPE: nobody reads)."""
    if fds:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        sock.sendmsg((message,), (rights,), _SEND)
    else:
        sock.send(message, _SEND)


def receive(sock: socket.socket, flags: int = _RECEIVE) -> Packet | None:
    """The next message; None at end-of-file. Raises BlockingIOError when there is none."""
    data, ancillary, message_flags, _ = sock.recvmsg(_LONGEST, ROOM, flags)
    if not data and not ancillary:
        return None
    return data, descriptors_in(ancillary), bool(message_flags & _TRUNCATED)
