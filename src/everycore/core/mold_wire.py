"""What the primary and a mold say to each other, on a SEQPACKET pair. Imports nothing but values.

The primary asks; the mold answers, and each worker that it makes says itself that it is there. The kernel
tells with each message whose it is (SCM_CREDENTIALS), so no process can be named but by itself.
"""

from __future__ import annotations

from typing import Final

import msgspec

from everycore.errors import ProtocolError
from everycore.ticket import Ticket

#: The descriptors of `MakeWorker` come in this order: channel, link, board, leash; the tally, if the ticket
#: names one; the three standard streams; and then those of `pass_fds`.
FIXED_DESCRIPTORS: Final = 4
#: The kernel passes so many descriptors with one message (SCM_MAX_FD), and we no larger message.
MOST_DESCRIPTORS: Final = 253
LONGEST: Final = 160 * 1024


class MoldTicket(msgspec.Struct, frozen=True):
    """What a mold is told at its start. `socket`, `leash`: [descriptor, inode].

    preload: what to import, or to import and call. force: threads forbid no fork. new_group: each worker
    leads a process group. is_confined: each leads a session. pass_fds: numbers that are to be free for them.
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
    """Make a worker. `env`: what differs from the environment of the mold; None removes a variable.

    The descriptors of the ticket are those that come with the message.
    """

    ticket: Ticket
    env: tuple[tuple[bytes, bytes | None], ...]
    pass_fds: tuple[int, ...]


class MoldIsPrepared(msgspec.Struct, frozen=True, tag="prepared"):
    """The mold has imported everything. `threads`: those that are alive; `shared`: what workers will
    share.
    """

    seconds: float
    threads: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


class MoldCannotPrepare(msgspec.Struct, frozen=True, tag="cannot"):
    """The mold cannot import what it has to, and ends."""

    text: str


class WorkerIsThere(msgspec.Struct, frozen=True, tag="there"):
    """Said by the worker."""


class MoldHasAnswered(msgspec.Struct, frozen=True, tag="answered"):
    """The mold is done with a `MakeWorker`. problem: why there is no worker."""

    problem: str = ""


FromMold = MoldIsPrepared | MoldCannotPrepare | WorkerIsThere | MoldHasAnswered

_encoder: Final = msgspec.msgpack.Encoder()
_from_mold: Final[msgspec.msgpack.Decoder[FromMold]] = msgspec.msgpack.Decoder(FromMold)
_to_mold: Final = msgspec.msgpack.Decoder(MakeWorker)


def encode(message: MakeWorker | FromMold) -> bytes:
    """The bytes of a message."""
    return _encoder.encode(message)


def read_mold_ticket(text: str) -> MoldTicket:
    """The ticket that `text` is, in JSON. Raises ValueError."""
    try:
        return msgspec.json.decode(text, type=MoldTicket)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def decode_to_mold(data: bytes) -> MakeWorker:
    """A message to a mold. Raises ProtocolError."""
    try:
        return _to_mold.decode(data)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the primary says what a mold does not know: {error}") from None


def decode_from_mold(data: bytes) -> FromMold:
    """A message of a mold, or of a worker that it has made. Raises ProtocolError."""
    try:
        return _from_mold.decode(data)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a mold says what nobody knows: {error}") from None
