"""The messages between the primary and a mold, on a SEQPACKET pair.

The primary asks and the mold answers. Each worker that the mold makes reports by itself that it is there. The
kernel names the sender of each message (SCM_CREDENTIALS), so no process can speak for another.
"""

from __future__ import annotations

from typing import Final

import msgspec

from everycore.errors import ProtocolError
from everycore.ticket import Ticket

#: How many descriptors begin every `MakeWorker`: channel, link, board and leash, in this order. The tally, if
#: the ticket names one, the three standard streams, and those of `pass_fds` follow.
FIXED_DESCRIPTORS: Final = 4
#: Descriptors that the kernel passes with one message at most (SCM_MAX_FD).
MOST_DESCRIPTORS: Final = 253
#: Bytes of the longest message.
LONGEST: Final = 160 * 1024


class MoldTicket(msgspec.Struct, frozen=True):
    """What a mold is told at its start. `socket` and `leash` are [descriptor, inode].

    preload: what to import, or to import and call.
    force: fork even if the mold has threads.
    new_group: each worker leads a process group.
    is_confined: each worker leads a session.
    pass_fds: descriptor numbers that must stay free for the workers' own.
    """

    socket: tuple[int, int]
    leash: tuple[int, int]
    primary: int
    preload: tuple[str, ...]
    force: bool
    new_group: bool
    is_confined: bool
    pass_fds: tuple[int, ...] = ()


class MakeWorker(msgspec.Struct, frozen=True, tag="make"):
    """Make a worker. `env` lists the differences to the mold's environment; None removes a variable.

    The descriptors of the ticket come with the message.
    """

    ticket: Ticket
    env: tuple[tuple[bytes, bytes | None], ...]
    pass_fds: tuple[int, ...]


class MoldIsPrepared(msgspec.Struct, frozen=True, tag="prepared"):
    """The mold has imported everything.

    threads: the threads that are alive.
    shared: what the workers will share.
    """

    seconds: float
    threads: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


class MoldCannotPrepare(msgspec.Struct, frozen=True, tag="cannot"):
    """The mold cannot import what it must, and ends."""

    text: str


class WorkerIsThere(msgspec.Struct, frozen=True, tag="there"):
    """The worker is there. The worker itself sends this."""


class MoldHasAnswered(msgspec.Struct, frozen=True, tag="answered"):
    """The mold has finished a `MakeWorker`. `problem` says why there is no worker, if there is none."""

    problem: str = ""


FromMold = MoldIsPrepared | MoldCannotPrepare | WorkerIsThere | MoldHasAnswered

_encoder: Final = msgspec.msgpack.Encoder()
_from_mold: Final[msgspec.msgpack.Decoder[FromMold]] = msgspec.msgpack.Decoder(FromMold)
_to_mold: Final = msgspec.msgpack.Decoder(MakeWorker)


def encode(message: MakeWorker | FromMold) -> bytes:
    """Return `message` as bytes."""
    return _encoder.encode(message)


def read_mold_ticket(text: str) -> MoldTicket:
    """Return the ticket that `text` holds as JSON. Raises ValueError."""
    try:
        return msgspec.json.decode(text, type=MoldTicket)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def decode_to_mold(data: bytes) -> MakeWorker:
    """Return the message to a mold. Raises ProtocolError."""
    try:
        return _to_mold.decode(data)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"unreadable message to a mold: {error}") from None


def decode_from_mold(data: bytes) -> FromMold:
    """Return the message of a mold, or of a worker that it made. Raises ProtocolError."""
    try:
        return _from_mold.decode(data)
    except Exception as error:  # as in `core.wire`: msgspec can raise other errors besides its own
        raise ProtocolError(f"unreadable message of a mold: {error}") from None
