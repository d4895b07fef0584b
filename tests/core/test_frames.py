"""However the kernel cuts the stream, frames and descriptors arrive intact; nonsense is a ProtocolError."""

import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core import wire
from everycore.core.frames import HEADER_SIZE, MAX_DESCRIPTORS, NOTE, WIRE, Frame, FrameDecoder, encode_frame
from everycore.errors import ProtocolError

LIMIT = 1000


@dataclass
class Pipe:
    """A unix stream as the kernel keeps it: buffers, of which only the first of a send has descriptors."""

    buffers: list[tuple[bytes, tuple[int, ...]]] = field(default_factory=list)

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        self.buffers.append((data, fds))

    def receive(self, size: int) -> tuple[bytes, tuple[int, ...]]:
        """As unix_stream_read_generic: glue buffers, but stop after the one that had descriptors."""
        data = b""
        group: tuple[int, ...] = ()
        while self.buffers and len(data) < size and not group:
            head, group = self.buffers.pop(0)
            part = head[: size - len(data)]
            data += part
            if len(part) < len(head):
                self.buffers.insert(0, (head[len(part) :], ()))
        return data, group


@given(st.data())
def test_frames_and_descriptors_come_out_as_they_went_in(data):
    one = st.tuples(st.sampled_from([WIRE, NOTE]), st.binary(max_size=60), st.integers(0, 3))
    numbers = iter(range(1000))
    frames: list[Frame] = [
        (kind, body, tuple(next(numbers) for _ in range(count)))
        for kind, body, count in data.draw(st.lists(one, max_size=12), "frames")
    ]
    pipe = Pipe()
    waiting = b""
    riders: tuple[int, ...] = ()
    for kind, body, fds in frames:  # a sender gathers plain frames behind the first one of a send
        raw = encode_frame(body, len(fds), kind)
        if waiting and (fds or data.draw(st.booleans(), "flush")):
            pipe.send(waiting, riders)
            waiting = b""
        waiting, riders = (waiting + raw, riders) if waiting else (raw, fds)
        if data.draw(st.booleans(), "partial send"):
            cut = data.draw(st.integers(1, len(waiting)), "cut")
            pipe.send(waiting[:cut], riders)
            waiting, riders = waiting[cut:], ()
    if waiting:
        pipe.send(waiting, riders)

    decoder, received = FrameDecoder(LIMIT), []
    while pipe.buffers:
        chunk, group = pipe.receive(data.draw(st.integers(1, 80), "read"))
        received += decoder.feed(chunk, group)
        decoder.check()
    assert received == frames
    assert decoder.is_between_frames
    assert decoder.close() == ()


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 4))))
def test_random_bytes_raise_nothing_but_protocol_errors_and_lose_no_descriptor(chunks):
    decoder = FrameDecoder(LIMIT)
    given_in: list[int] = []
    handed_out: list[int] = []
    for number, (data, count) in enumerate(chunks):
        fds = tuple(range(number * 10, number * 10 + count))
        given_in += fds
        try:
            handed_out += [fd for _, _, owned in decoder.feed(data, fds) for fd in owned]
            decoder.check()
        except ProtocolError:
            continue
    handed_out += decoder.close()
    assert sorted(handed_out) == given_in


@given(st.data())
def test_nearly_right_streams_lose_no_descriptor(data):
    """Frames whose declared and carried counts need not agree, cut anywhere."""
    decoder, number = FrameDecoder(50), 0
    given_in: list[int] = []
    handed_out: list[int] = []
    for _ in range(data.draw(st.integers(1, 6))):
        raw = encode_frame(data.draw(st.binary(max_size=55)), data.draw(st.integers(0, 2)))
        fds = tuple(range(number, number + data.draw(st.integers(0, 2))))
        number += len(fds)
        cut = data.draw(st.integers(0, len(raw)))
        for chunk, group in ((raw[:cut], fds), (raw[cut:], ())):
            if not chunk:
                continue
            given_in += group
            try:
                handed_out += [fd for _, _, owned in decoder.feed(chunk, group) for fd in owned]
                decoder.check()
            except ProtocolError:
                continue
    handed_out += decoder.close()
    assert sorted(handed_out) == sorted(given_in)


ONE, PLAIN = encode_frame(b"one", 1), encode_frame(b"plain")


def header(length: int, *, version: int = wire.VERSION, kind: int = WIRE) -> bytes:
    return struct.pack("<IBBB", length, version, kind, 0)


def violation(*chunks: tuple[bytes, tuple[int, ...]]) -> tuple[str, list[bytes], tuple[int, ...]]:
    """The error, the frames that were read before it, the descriptors to close."""
    decoder, heard = FrameDecoder(LIMIT), []
    with pytest.raises(ProtocolError) as caught:
        for data, fds in chunks:
            heard += [body for _, body, _ in decoder.feed(data, fds)]
            decoder.check()
    with pytest.raises(ProtocolError):
        decoder.feed(PLAIN)
    return str(caught.value), heard, decoder.close()


@pytest.mark.parametrize(
    ("chunks", "sentence", "heard"),
    [
        ([(PLAIN, (7,))], "1 descriptors came that no message declares", [b"plain"]),
        ([(PLAIN + PLAIN + PLAIN[:9], (7,))], "1 descriptors came that no message declares", [b"plain"] * 2),
        ([(ONE, ())], "declares 1 descriptors that did not come with it", []),
        ([(PLAIN + ONE, ())], "declares 1 descriptors that did not come with it", [b"plain"]),
        ([(ONE, (7, 8))], "declares 1 descriptors and 2 came", []),
        ([(ONE, tuple(range(253)))], "declares 1 descriptors and 253 came", []),
        ([(ONE + ONE, (7,))], "declares 1 descriptors that did not come with it", [b"one"]),
        ([(PLAIN[:9], ()), (PLAIN[9:], (7,))], "in the middle of a message", [b"plain"]),
        ([(PLAIN[:9], ()), (PLAIN[9:10], (7,))], "in the middle of a message", []),
        ([(ONE[:3], ()), (ONE[3:], (7,))], "declares 1 descriptors that did not come with it", []),
        ([(ONE[:3], ()), (ONE[3:4], (7,))], "in the middle of a message", []),
        ([(PLAIN[:3], (7,)), (PLAIN[3:], ())], "1 descriptors came that no message declares", []),
        ([(PLAIN[:3], (7,)), (PLAIN[3:4], (8,))], "in the middle of a message", []),
        ([(ONE[:3], (7, 8)), (ONE[3:], ())], "declares 1 descriptors and 2 came", []),
        ([(header(3, version=wire.VERSION + 1), ())], "was everycore replaced", []),
        ([(header(LIMIT + 1), ())], "1001 bytes; at most 1000 are allowed", []),
        ([(PLAIN + header(3, kind=2), ())], "a frame of the unknown kind 2", [b"plain"]),
        (
            [(header(3, kind=255)[:6], ()), (header(3, kind=255)[6:], ())],
            "a frame of the unknown kind 255",
            [],
        ),
        ([(b"\xff" * 4, ()), (b"\xff" * 4, ())], "version 255", []),
    ],
)
def test_violations_are_named_and_nothing_is_kept(chunks, sentence, heard):
    text, before, left = violation(*chunks)
    assert sentence in text
    assert before == heard
    came = [fd for _, fds in chunks for fd in fds]
    expected = came[1:] if heard == [b"one"] else came  # the first `one` had left with its own
    assert sorted(left) == sorted(expected)


def test_a_group_waits_for_a_header_that_began_in_its_chunk():
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(PLAIN + ONE[:1], (7,)) == [(WIRE, b"plain", ())]
    for byte in ONE[1:-1]:
        assert decoder.feed(bytes([byte])) == []
        assert not decoder.is_between_frames
    assert decoder.feed(ONE[-1:] + PLAIN) == [(WIRE, b"one", (7,)), (WIRE, b"plain", ())]


def test_a_new_group_may_follow_the_end_of_a_frame_in_one_chunk():
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(ONE[:9], (7,)) == []
    assert decoder.feed(ONE[9:] + PLAIN + ONE, (8,)) == [
        (WIRE, b"one", (7,)),
        (WIRE, b"plain", ()),
        (WIRE, b"one", (8,)),
    ]


def test_empty_bodies_and_the_largest_one():
    decoder = FrameDecoder(LIMIT)
    raw = encode_frame(b"") + encode_frame(b"x" * LIMIT) + encode_frame(b"", 1)
    assert [body for _, body, _ in decoder.feed(raw, (7,))] == [b"", b"x" * LIMIT, b""]
    for cut in range(1, HEADER_SIZE):
        assert decoder.feed(encode_frame(b"")[:cut]) == []
        assert decoder.feed(encode_frame(b"")[cut:]) == [(WIRE, b"", ())]


def test_a_large_frame_in_many_pieces_costs_no_more_than_its_bytes():
    size = 8 << 20
    decoder, raw = FrameDecoder(size), encode_frame(b"x" * size)
    received = []
    for start in range(0, len(raw), 512):  # quadratic copying would take minutes here
        received += decoder.feed(raw[start : start + 512])
    assert [len(body) for _, body, _ in received] == [size]


def test_an_abandoned_decoder_takes_nothing_more():
    decoder = FrameDecoder(LIMIT)
    decoder.feed(ONE[:9], (7,))
    assert decoder.close() == (7,)
    with pytest.raises(ProtocolError):
        decoder.feed(ONE[9:], (8,))
    assert decoder.close() == (8,)


def test_more_descriptors_than_the_kernel_carries_are_refused():
    encode_frame(b"", MAX_DESCRIPTORS)
    with pytest.raises(ValueError, match="at most 253 descriptors, not 254"):
        encode_frame(b"", MAX_DESCRIPTORS + 1)
