"""Every message that travels between the primary and a worker, for both ends, in one file.

This file is the protocol. The docstring of a message names its sender and gives the meaning in the sender's
words. Invariant: the format cannot execute code. Whatever is wrong with the bytes (an unknown tag, a missing
field, a field of another type, text that is not UTF-8, endless nesting) is a `ProtocolError`, never a guess.

Three pipes carry the messages (see `docs/reference/wire-protocol.md`):

* the *channel*, a stream: `ToPrimary` and `ToWorker`, framed by `core.frames`;
* the *link*, datagrams: one `LinkRequest`, one `LinkReply`, for code that has no event loop;
* the *belts*, datagrams: `Handover` and `Rest` to the worker, `Upstream` to the primary.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec

from everycore.errors import ProtocolError
from everycore.kernel import LONGEST_PATH

#: Raised by one when a message changes its meaning. Both ends come from one installation, so nothing is
#: negotiated. A mismatch means that the package was replaced under a running cluster, and the error says so.
VERSION = 1

#: Characters of the longest host that `accept` returns: an IPv6 address and the name of an interface.
_LONGEST_HOST = 64


class _Wire(msgspec.Struct, array_like=True, tag=True, gc=False):
    """A message. On the wire it is an array that begins with the class name."""


def check_address(value: Any) -> None:
    """Raise ValueError unless `value` is [host, port], [host, port, flow, scope], a path, or None.

    (msgspec refuses a union of `str` and `bytes`; an abstract unix address is bytes.)
    """
    if value is None or isinstance(value, (str, bytes)):
        return
    if isinstance(value, (list, tuple)) and len(value) in (2, 4):
        host, *numbers = value
        if isinstance(host, str) and all(type(number) is int for number in numbers):
            return
    msg = "an address is [host, port], [host, port, flow, scope], a path or None"
    raise ValueError(msg)


def check_peer(value: Any) -> None:
    """Raise ValueError unless `value` is a peer's address as `accept` returns it.

    A worker writes it, and other workers read it. A longer address would not fit the message that they read.
    """
    check_address(value)
    text = value[0] if isinstance(value, (list, tuple)) else value
    if text is not None and len(text) > (LONGEST_PATH if text is value else _LONGEST_HOST):
        msg = f"a peer's address of {len(text)} characters"
        raise ValueError(msg)


# --- a worker's life --------------------------------------------------------------------------------------


class Joined(_Wire):
    """Worker: I am running and have joined the channel. Sent exactly once, before the program begins."""

    pid: int


class Attached(_Wire):
    """Worker: my event loop reads the channel, so I will hear a `Disconnect`. Until then I need SIGTERM."""


class Disconnect(_Wire):
    """Primary: finish your work within `grace` seconds and leave. `spares_idle`: idle clients get it too."""

    grace: float
    spares_idle: bool = True


class ReopenLogs(_Wire):
    """Primary: reopen your log files, which have been moved away."""


class Leave(_Wire):
    """Worker, by the link: I leave of my own accord, so my exit is voluntary. Answered by `Done`."""


class Drained(_Wire):
    """Worker: my connections have ended. Only the end of the channel follows."""


class HoldReady(_Wire):
    """Worker, by the link: my first listener does not make me ready. I will say when I am."""


class GiveUp(_Wire):
    """Worker, by the link, not answered: I no longer wait for the answer to the request of this number."""


class ReadyNow(_Wire):
    """Worker, by the link: give me connections."""


# --- idle connections that a leaving worker hands on -----------------------------------------------------


class CanHandOn(_Wire):
    """Worker: I can hand idle connections on when I leave, and take over others, up to `most` in all."""

    most: int


class MayHandOn(_Wire):
    """Primary, to a worker that leaves: you may hand your idle connections on from now on, or may not."""

    may: bool


class HandOn(_Wire):
    """Worker that leaves, with one descriptor: here is an idle connection for another worker."""


class TakeOver(_Wire):
    """Primary, with one descriptor: here is an idle connection of a worker that leaves. It is yours."""


# --- listening --------------------------------------------------------------------------------------------


class Listen(_Wire, kw_only=True):
    """Worker: I want to listen.

    `address` is what `bind` takes, with numeric hosts: [host, port], [host, port, flow, scope], a path, or
    None with `fd`, a descriptor of the *primary*. `request` is 0 on the link. Without `start` the address is
    bound and no client can connect yet, as with `start_serving=False`.
    """

    request: int = 0
    address: Any
    family: int
    kind: int
    fd: int | None = None
    backlog: int
    v6only: bool = True
    mode: int | None = None
    start: bool = True

    def __post_init__(self) -> None:
        check_address(self.address)


class Bind(_Wire):
    """Worker, by the link, with one descriptor: bind this unbound socket of mine to `address`, and keep it.

    The very socket is bound, so every option set on it holds without a name here. If the cluster has bound
    the address already, the socket is closed and that listener granted. For a unix socket, `mode` is the
    permissions of its file, and `name` is its path from `folder` on, as the program and its clients see it.
    For port 0, `nth` is how many of these I have asked for before; workers that ask for the same `nth` share
    one. Answered by `Granted`. No client can connect until `StartListening`.
    """

    address: Any
    mode: int | None = None
    folder: bytes | None = None
    name: bytes | None = None
    nth: int = 0

    def __post_init__(self) -> None:
        check_address(self.address)


class StartListening(_Wire):
    """Worker, by the link: let the listener that was only bound (`Listen.start` was false) listen now."""

    listener: int
    backlog: int


class Release(_Wire):
    """Worker, by the link: the socket of my `Bind` is a client's. Return it, unless others hold it."""

    listener: int


class MayConnect(_Wire):
    """Worker, by the link: run alone, would I find a server there? If not, or if `others` do: `Refused`."""

    address: Any
    others: bool = False


class Settle(_Wire):
    """Worker, by the link: answer `Done` once you have read everything that I sent on my belts."""


class SetOption(_Wire):
    """Worker, by the link: setsockopt(2) on a listener that I hold."""

    listener: int
    level: int
    option: int
    value: bytes


class GetOption(_Wire):
    """Worker, by the link: getsockopt(2) on a listener that I hold. Answered by `Option`."""

    listener: int
    level: int
    option: int
    size: int


class Option(_Wire):
    """Primary, by the link: the value of an option."""

    value: bytes


class Granted(_Wire):
    """Primary: here is the listener. `address` is its real address.

    Descriptors: the worker's end of the belt, the primary's end, and, if the workers share the listener, the
    listener itself (`shared`, datagrams) and its baton (`shared`).
    """

    request: int
    listener: int
    address: Any
    family: int
    kind: int
    proto: int

    def __post_init__(self) -> None:
        check_address(self.address)


class Refused(_Wire):
    """Primary: refused, for the reason that the kernel gave, or would have given a single process."""

    request: int
    errno: int
    text: str


class Done(_Wire):
    """Primary, by the link: done."""


# --- the program's own messages ---------------------------------------------------------------------------


class Note(_Wire):
    """A user's message.

    `body` is encoded by `core.values`, so that pickle is decoded only by its consumer. On the channel it is
    the body of a frame of its own kind (`core.frames`) and never encoded as a message of this file.
    """

    body: bytes


class Ask(_Wire):
    """A request. Its answer repeats the number."""

    number: int
    body: bytes


class Answer(_Wire):
    """The handler returned."""

    number: int
    body: bytes


class Failure(_Wire):
    """The handler raised, or there is no handler."""

    number: int
    type_name: str
    text: str


class Took(_Wire):
    """`count` of your notes and requests, `size` bytes of bodies, `handles` were taken: send as much more."""

    count: int
    size: int
    handles: int = 0


class Report(_Wire):
    """Worker, by the link: a `Note` from a program that has no loop yet, or none any more."""

    body: bytes


ToPrimary = Joined | Attached | Drained | CanHandOn | HandOn | Listen | Ask | Answer | Failure | Took
ToWorker = Disconnect | ReopenLogs | MayHandOn | TakeOver | Granted | Refused | Ask | Answer | Failure | Took
LinkRequest = (
    Listen | Bind | Release | MayConnect | StartListening | SetOption | GetOption | Settle
    | HoldReady | ReadyNow | Leave | Report | GiveUp
)  # fmt: skip
LinkReply = Granted | Refused | Option | Done

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode

#: A datagram of the link begins with the request's number; its reply repeats it.
LINK_NUMBER = struct.Struct("<Q")


def _decoder(kind: Any) -> Callable[[bytes], Any]:
    """Return a decoder of `kind` that raises only ProtocolError.

    msgspec can also raise UnicodeDecodeError and RecursionError, besides its own DecodeError.
    """
    decode = msgspec.msgpack.Decoder(kind).decode

    def checked(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception as exc:
            raise ProtocolError(f"unreadable message: {exc}") from exc

    return checked


decode_to_primary = _decoder(ToPrimary)
decode_to_worker = _decoder(ToWorker)
decode_link_request = _decoder(LinkRequest)
decode_link_reply = _decoder(LinkReply)


# --- belts ------------------------------------------------------------------------------------------------


class Handover(_Wire):
    """Primary, with as many descriptors as `peers`: connections numbered `first`, `first` + 1, ...

    Without descriptors and peers this is a probe. Acknowledge it like a connection numbered `first`. A peer
    is the address that `accept()` returned: after an early reset it can't be asked for later.
    """

    first: int
    peers: list[Any]


class Rest(_Wire):
    """Primary, on the belt of a shared listener: accept nothing while this lies here, and leave it here."""


class Serve(_Wire):
    """Worker: give me connections, up to `batch` per message (1 for a plain `accept()`). Repeat it to resume.

    `room`: how many connections I may have un-acknowledged; None sets no limit. `shares`: give me none,
    because I accept by myself, in turn with the other workers (policy `shared`).
    """

    batch: int
    room: int | None = None
    shares: bool = False


class Acked(_Wire):
    """Worker: the program was given every connection up to number `last`.

    `cost`: microseconds for which each of them kept my event loop busy; 0 if not measured.
    """

    last: int
    cost: int = 0


class GiveBack(_Wire):
    """Worker, with one descriptor: I give back connection `number`. My server is closed or full."""

    number: int
    peer: Any

    def __post_init__(self) -> None:
        check_peer(self.peer)


class Full(_Wire):
    """Worker: I am at my limit of connections. Give me no more until I repeat `Serve`."""


class Close(_Wire):
    """Worker: I no longer hold this listener."""


Upstream = Serve | Acked | GiveBack | Full | Close
decode_handover = _decoder(Handover)
decode_upstream = _decoder(Upstream)
