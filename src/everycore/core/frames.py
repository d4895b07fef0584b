"""Cuts the channel's byte stream into messages, and gives each descriptor to the message it came with.

A frame is a header (body length, protocol version, kind, number of descriptors: `<IBBB`) and a body. There
are two kinds of frame: a message of `core.wire`, and a note, whose body is the user's value itself. So the
most frequent message needs no second encoding around the first.

Invariant: a descriptor never slips to a neighbouring message. Either it leaves in the one frame that declares
it, or `close()` returns it to be closed. After a violation nothing more is decoded: if a stream's lengths
can't be trusted, its next frame can't be found.

Facts about SCM_RIGHTS on a unix stream (net/unix/af_unix.c: unix_stream_sendmsg, unix_stream_read_generic):

* Descriptors are attached to the first byte of their `sendmsg`. They arrive with it, however little is read.
* One `recvmsg` returns at most one group of descriptors, and stops at the end of the send that carried it.
  The group therefore belongs to the *last* send whose bytes are in the chunk. Plain bytes of earlier sends
  may precede it.

The sender begins every frame that has descriptors with a `sendmsg` of its own. So a group that came with a
chunk belongs to a frame that *starts* in that chunk and declares exactly as many descriptors. Rejected: a
queue from which frames take descriptors in order, as in `multiprocessing`. One wrong count then shifts all
that follow.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

from everycore.core import wire
from everycore.errors import ProtocolError

_HEADER: Final = struct.Struct("<IBBB")
HEADER_SIZE: Final = _HEADER.size
#: Pieces of an incomplete frame that are smaller than this are joined.
_SMALL: Final = 4096
#: The kinds of frames: the body is a message of `core.wire`, or the body of a `wire.Note`.
WIRE: Final = 0
NOTE: Final = 1
#: The kernel's limit for one group (SCM_MAX_FD).
MAX_DESCRIPTORS: Final = 253

_pack = _HEADER.pack
_unpack_from = _HEADER.unpack_from
_VERSION: Final = wire.VERSION

#: One message: its kind, its bytes, and the descriptors that came with it, which the receiver owns from here
#: on. A plain tuple: a named one takes longer to make than the rest of a small frame.
Frame: TypeAlias = tuple[int, bytes, tuple[int, ...]]


def encode_frame(body: bytes, fds: int = 0, kind: int = WIRE) -> bytes:
    """Return `body` behind its header. `fds` is the number of descriptors that go with it."""
    if fds > MAX_DESCRIPTORS:
        raise ValueError(f"a message carries at most {MAX_DESCRIPTORS} descriptors, not {fds}")
    return _pack(len(body), _VERSION, kind, fds) + body


class FrameDecoder:
    """Turns the chunks of a stream into frames.

        for frame in decoder.feed(data, fds):
            ...
        decoder.check()

    `feed` returns the frames that were complete before a violation. `check` and any later `feed` raise the
    violation. In this order the last valid messages of a peer are handled before it is given up.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        #: The stream's violation of the protocol, if there was one. `check` raises it.
        self.violation: ProtocolError | None = None
        # The incomplete frame: the pieces of its header and then, once that is known, of its body.
        self._pieces: list[bytes | bytearray] = []
        self._have = 0
        self._need = HEADER_SIZE
        self._in_body = False
        self._kind = WIRE
        self._claimed: tuple[int, ...] = ()
        # Descriptors that no frame has claimed yet.
        self._group: tuple[int, ...] = ()

    @property
    def is_between_frames(self) -> bool:
        """Whether no frame is half received. An orderly stream ends at such a point."""
        return not self._have and not self._in_body

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Frame]:
        """Take one chunk, as one `recvmsg` returned it.

        The descriptors belong to the decoder from here on.
        """
        if self.violation is not None:
            self._group += tuple(fds)
            raise self.violation
        frames: list[Frame] = []
        start = 0
        try:
            if not (fds or self._have or self._in_body or self._group):
                self._parse(data, 0, frames)
                return frames
            if self._have or self._in_body:
                try:
                    start = self._continue(data, frames, with_group=bool(fds))
                finally:
                    self._group += tuple(fds)
            elif fds:
                self._group += tuple(fds)
            if start < len(data):
                self._parse(data, start, frames)
            # A header that began in this chunk may still claim the group; nothing else can.
            if self._group and (self._in_body or not self._have):
                raise ProtocolError(f"{len(self._group)} descriptors came that no message declares")
        except ProtocolError as violation:
            self.violation = violation
        return frames

    def check(self) -> None:
        """Raise the violation of the stream, if there was one."""
        if self.violation is not None:
            raise self.violation

    def close(self) -> tuple[int, ...]:
        """Return the descriptors not handed out, which the caller closes. After this, `feed` raises."""
        left = self._claimed + self._group
        self._claimed = self._group = ()
        if self.violation is None:
            self.violation = ProtocolError("the stream was abandoned")
        return left

    def _parse(self, data: bytes, start: int, frames: list[Frame]) -> None:
        """Cut `data` into frames from `start`, where one begins. Hot: most chunks are whole small frames."""
        size, max_size = len(data), self._max_size
        body = start + HEADER_SIZE
        while body <= size:
            length, version, kind, count = _unpack_from(data, start)
            if version != _VERSION or length > max_size or kind > NOTE:
                raise self._bad_header(length, version, kind)
            claimed = self._claim(count) if count else ()
            start = body + length
            if start > size:
                self._expect(length, claimed, kind)
                start = body
                break
            frames.append((kind, data[body:start], claimed))
            body = start + HEADER_SIZE
        if start < size:
            self._keep(data[start:])
            self._have = size - start

    def _continue(self, data: bytes, frames: list[Frame], *, with_group: bool) -> int:
        """Continue the incomplete frame, and return where in `data` the next one starts.

        A group that came with this chunk can't belong to a frame that began before the chunk.
        """
        start = 0
        if not self._in_body:
            start = self._take(data, 0)
            if self._have == HEADER_SIZE:
                length, version, kind, count = _unpack_from(b"".join(self._pieces))
                if version != _VERSION or length > self._max_size or kind > NOTE:
                    raise self._bad_header(length, version, kind)
                claimed = self._claim(count) if count else ()
                if self._group:
                    raise ProtocolError(f"{len(self._group)} descriptors came that no message declares")
                self._expect(length, claimed, kind)
        if self._in_body:
            start = self._take(data, start)
            if self._have == self._need:
                frames.append((self._kind, b"".join(self._pieces), self._claimed))
                self._expect(HEADER_SIZE, (), in_body=False)
        if with_group and start == len(data):
            raise ProtocolError("descriptors came in the middle of a message")
        return start

    def _take(self, data: bytes, start: int) -> int:
        """Move as many bytes as the incomplete frame still needs. Return the new position."""
        end = min(len(data), start + self._need - self._have)
        if end > start:
            self._keep(data[start:end])
            self._have += end - start
        return end

    def _keep(self, piece: bytes) -> None:
        """Add `piece` to the incomplete frame. One that comes byte by byte costs no object per byte."""
        pieces = self._pieces
        if len(piece) >= _SMALL:
            pieces.append(piece)
        elif pieces and isinstance(last := pieces[-1], bytearray):
            last += piece
        else:
            pieces.append(bytearray(piece))

    def _expect(self, need: int, claimed: tuple[int, ...], kind: int = WIRE, *, in_body: bool = True) -> None:
        self._pieces, self._have, self._need, self._in_body = [], 0, need, in_body
        self._claimed, self._kind = claimed, kind

    def _claim(self, count: int) -> tuple[int, ...]:
        group = self._group
        if not group:
            raise ProtocolError(f"a message declares {count} descriptors that did not come with it")
        if len(group) != count:
            raise ProtocolError(f"a message declares {count} descriptors and {len(group)} came")
        self._group = ()
        return group

    def _bad_header(self, length: int, version: int, kind: int) -> ProtocolError:
        if version != _VERSION:
            return ProtocolError(
                f"the peer speaks version {version} of the protocol, this is version {_VERSION}:"
                " was everycore replaced while the cluster ran?"
            )
        if length > self._max_size:
            return ProtocolError(f"a message of {length} bytes; at most {self._max_size} are allowed")
        return ProtocolError(f"a frame of the unknown kind {kind}")
