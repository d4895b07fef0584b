"""Cuts the channel's byte stream into messages, and gives each descriptor to the message it came with.

A frame is a header (body length, protocol version, number of descriptors: `<IBB`) and a body.

Invariant: a descriptor never slips to a neighbour. Either it leaves inside the one frame that declares it,
or `abandon()` returns it to be closed. After a violation nothing more is decoded: a stream whose lengths
can't be trusted has no next frame. Must not import anything with I/O: descriptors are mere numbers here.

Facts about SCM_RIGHTS on a unix stream (net/unix/af_unix.c: unix_stream_sendmsg, unix_stream_read_generic):

* descriptors sit on the first byte of their `sendmsg`, and arrive with it, however little of it is read;
* one `recvmsg` returns at most one group of descriptors, and stops at the end of what carried it: the group
  belongs to the *last* send whose bytes are in the chunk, and plain bytes of earlier sends may stand before
  it.

The sender begins every frame that has descriptors with a `sendmsg` of its own. So a group that came with a
chunk belongs to a frame that *starts* in that chunk and declares exactly as many. Rejected: a queue of
descriptors that frames take from in order (what `multiprocessing` does): one lie in a count then shifts all
that follow.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from everycore.core import wire
from everycore.errors import ProtocolError

_HEADER: Final = struct.Struct("<IBB")
HEADER_SIZE: Final = _HEADER.size
#: The kernel's limit for one group (SCM_MAX_FD).
MAX_DESCRIPTORS: Final = 253

_pack = _HEADER.pack
_unpack_from = _HEADER.unpack_from
_new = tuple.__new__


class Frame(NamedTuple):
    """One message as bytes, and the descriptors that came with it, which the receiver of this now owns."""

    body: bytes
    fds: tuple[int, ...]


def encode_frame(body: bytes, fds: int = 0) -> bytes:
    """`body` behind its header; `fds` is how many descriptors go with it."""
    if fds > MAX_DESCRIPTORS:
        raise ValueError(f"a message carries at most {MAX_DESCRIPTORS} descriptors, not {fds}")
    return _pack(len(body), wire.VERSION, fds) + body


class FrameDecoder:
    """Chunks of a stream in, frames out.

        for frame in decoder.feed(data, fds):
            ...
        decoder.check()

    `feed` returns what was complete before a violation; `check`, and any later `feed`, raises it. In this
    order the last good words of a peer are heard before it is given up.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._violation: ProtocolError | None = None
        # The frame under way: the pieces of its header, then, once that is known, of its body.
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = HEADER_SIZE
        self._in_body = False
        self._claimed: tuple[int, ...] = ()
        # Descriptors that no frame has claimed yet.
        self._group: tuple[int, ...] = ()

    @property
    def is_between_frames(self) -> bool:
        """Whether nothing is half received: where an orderly stream ends."""
        return not self._have and not self._in_body

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Frame]:
        """Take one chunk, as one `recvmsg` returned it.

        The descriptors belong to the decoder from here on.
        """
        if self._violation is not None:
            self._group += tuple(fds)
            raise self._violation
        frames: list[Frame] = []
        start = 0
        try:
            try:
                if self._have or self._in_body:
                    start = self._continue(data, frames, with_group=bool(fds))
            finally:
                self._group += tuple(fds)
            if start < len(data):
                self._parse(data, start, frames)
            # A header that began in this chunk may still claim the group; nothing else can.
            if self._group and (self._in_body or not self._have):
                raise ProtocolError(f"{len(self._group)} descriptors came that no message declares")
        except ProtocolError as violation:
            self._violation = violation
        return frames

    def check(self) -> None:
        """Raise the violation that was met, if any."""
        if self._violation is not None:
            raise self._violation

    def abandon(self) -> tuple[int, ...]:
        """Every descriptor that was not handed out: the caller closes them. Nothing can be fed after this."""
        left = self._claimed + self._group
        self._claimed = self._group = ()
        if self._violation is None:
            self._violation = ProtocolError("the stream was abandoned")
        return left

    def _parse(self, data: bytes, start: int, frames: list[Frame]) -> None:
        """Cut `data` from `start`, where a frame begins. Hot: most chunks are whole small frames."""
        size = len(data)
        while size - start >= HEADER_SIZE:
            length, version, count = _unpack_from(data, start)
            if version != wire.VERSION or length > self._max_size:
                raise self._bad_header(length, version)
            claimed = self._claim(count) if count else ()
            start += HEADER_SIZE
            end = start + length
            if end > size:
                self._expect(length, claimed)
                break
            frames.append(_new(Frame, (data[start:end], claimed)))
            start = end
        if start < size:
            self._pieces.append(data[start:])
            self._have = size - start

    def _continue(self, data: bytes, frames: list[Frame], *, with_group: bool) -> int:
        """Go on with the frame under way, and return where in `data` the next one starts.

        A group that came with this chunk is not for a frame that began before it.
        """
        start = 0
        if not self._in_body:
            start = self._take(data, 0)
            if self._have == HEADER_SIZE:
                length, version, count = _unpack_from(b"".join(self._pieces))
                if version != wire.VERSION or length > self._max_size:
                    raise self._bad_header(length, version)
                claimed = self._claim(count) if count else ()
                if self._group:
                    raise ProtocolError(f"{len(self._group)} descriptors came that no message declares")
                self._expect(length, claimed)
        if self._in_body:
            start = self._take(data, start)
            if self._have == self._need:
                frames.append(_new(Frame, (b"".join(self._pieces), self._claimed)))
                self._expect(HEADER_SIZE, (), in_body=False)
        if with_group and start == len(data):
            raise ProtocolError("descriptors came in the middle of a message")
        return start

    def _take(self, data: bytes, start: int) -> int:
        """Move up to what the frame under way still needs; return the new position."""
        end = min(len(data), start + self._need - self._have)
        if end > start:
            self._pieces.append(data[start:end])
            self._have += end - start
        return end

    def _expect(self, need: int, claimed: tuple[int, ...], *, in_body: bool = True) -> None:
        self._pieces, self._have, self._need, self._in_body, self._claimed = [], 0, need, in_body, claimed

    def _claim(self, count: int) -> tuple[int, ...]:
        group = self._group
        if not group:
            raise ProtocolError(f"a message declares {count} descriptors that did not come with it")
        if len(group) != count:
            raise ProtocolError(f"a message declares {count} descriptors and {len(group)} came")
        self._group = ()
        return group

    def _bad_header(self, length: int, version: int) -> ProtocolError:
        if version != wire.VERSION:
            return ProtocolError(
                f"the peer speaks version {version} of the protocol, this is version {wire.VERSION}:"
                " was everycore replaced while the cluster ran?"
            )
        return ProtocolError(f"a message of {length} bytes; at most {self._max_size} are allowed")
