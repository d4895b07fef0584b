"""A peer that breaks the protocol of a channel: valid messages arrive, and no descriptor is left."""

import contextlib
import errno
import itertools
import os
import random
import socket
import struct
import threading
from typing import Any, cast

import msgspec
import pytest

from everycore.aio.channel import OVERHEAD
from everycore.core import wire
from everycore.core.frames import NOTE, WIRE, encode_frame
from everycore.errors import ProtocolError
from everycore.system.descriptors import close_all
from tests.kit import open_fds, turn, wait_readable
from tests.kit.channel_pairs import MAX_MESSAGE, Pair, Raw, note, send_with, until

MALFORMED = {
    "random": random.Random(1).randbytes(1000),
    "zeros": bytes(100),
    "oversized": struct.pack("<IBBB", MAX_MESSAGE + OVERHEAD + 1, wire.VERSION, WIRE, 0),
    "version": struct.pack("<IBBB", 1, wire.VERSION + 1, WIRE, 0) + b"x",
    "not msgpack": encode_frame(b"\xc1"),
    "unknown type": encode_frame(msgspec.msgpack.encode(["Nonsense", 1])),
    "wrong direction": encode_frame(wire.encode(wire.Disconnect(1.0))),
    "missing field": encode_frame(msgspec.msgpack.encode(["Joined"])),
    "wrong field": encode_frame(msgspec.msgpack.encode(["Joined", "x"])),
    "unknown kind": encode_frame(b"x", 0, NOTE + 1),
    "nested": encode_frame(b"\x91" * 100_000),
    "declares one": encode_frame(wire.encode(wire.Joined(2)), 1),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_bytes_cost_the_channel_after_what_was_good(data, loop_factory):
    async with Raw() as (primary, peer):
        peer.sendall(encode_frame(wire.encode(wire.Joined(1))) + data)
        await until(lambda: primary.losses)
        assert [message for message, _ in primary.heard] == [wire.Joined(1)]
        assert [type(loss) for loss in primary.losses] == [ProtocolError]
        assert primary.channel.is_closed
        assert peer.recv(10) == b""


async def test_a_truncated_message_is_a_violation():
    async with Raw() as (primary, peer):
        peer.sendall(note()[:-1])
        peer.close()
        await until(lambda: primary.losses)
        assert isinstance(primary.losses[0], ProtocolError)
        assert "middle of a message" in str(primary.losses[0])


@pytest.mark.parametrize(
    ("declared", "carried"), [(1, 253), (0, 1), (0, 253), (2, 1), (1, 2)], ids=lambda n: str(n)
)
async def test_descriptors_that_do_not_fit_are_all_closed(declared, carried, loop_factory):
    before = open_fds()
    async with Raw() as (primary, peer):
        send_with(peer, encode_frame(wire.encode(wire.Joined(1)), declared), [2] * carried)
        await until(lambda: primary.losses)
        assert isinstance(primary.losses[0], ProtocolError)
    assert open_fds() == before


async def test_253_descriptors_declared_and_carried_are_delivered():
    async with Raw() as (primary, peer):
        send_with(peer, encode_frame(wire.encode(wire.Joined(1)), 253), [2] * 253)
        await until(lambda: primary.heard)
        assert len(primary.heard[0][1]) == 253


async def test_descriptors_inside_a_running_message_are_a_violation():
    async with Raw() as (primary, peer):
        data = note(1000)
        peer.sendall(data[:500])
        await turn(3)
        send_with(peer, data[500:], [2])
        await until(lambda: primary.losses)
        assert "middle of a message" in str(primary.losses[0])


async def test_a_half_received_message_with_a_descriptor_leaks_nothing():
    before = open_fds()
    async with Raw() as (primary, peer):
        send_with(peer, encode_frame(b"x" * 1000, 1, NOTE)[:50], [2])
        await turn(3)
        peer.close()
        await until(lambda: primary.losses)
    assert open_fds() == before


async def test_others_have_their_turn_between_frames():
    """There are many chunks, each full of small frames."""
    async with Raw() as (primary, peer):
        peer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                peer.send(note() * 1000)
        await turn(1)
        heard = [len(primary.heard)]
        while len(primary.heard) > heard[-1] or len(heard) < 3:
            heard.append(len(primary.heard))
            await turn(1)
        a_chunk = (1 << 16) // len(note()) + 1
        assert max(after - before for before, after in itertools.pairwise(heard)) <= 2 * a_chunk
        assert heard[-1] > 2 * a_chunk


@pytest.mark.limit(20)
async def test_a_grandchild_that_goes_on_writing_does_not_delay_the_end():
    """It has the worker's end, and writes faster than the primary reads."""
    async with Raw() as (primary, peer):
        frames = note() * 1000
        is_over = threading.Event()

        def flood():
            peer.setblocking(True)
            with contextlib.suppress(OSError):
                while not is_over.is_set():
                    peer.sendall(frames)

        writer = threading.Thread(target=flood)
        primary.channel.pause_reading()
        writer.start()
        try:
            wait_readable(primary.sock.fileno(), 5)
            primary.channel.read_to_end()
            assert len(primary.losses) == 1
        finally:
            is_over.set()
            peer.shutdown(socket.SHUT_RDWR)
            writer.join()


async def test_descriptors_lost_for_want_of_numbers_are_reported():
    real = socket.socket.recvmsg

    class Short:
        """`recvmsg` behaves as at the limit of open descriptors: no control data, MSG_CTRUNC."""

        def __init__(self, sock):
            self._sock = sock

        def __getattr__(self, name):
            return getattr(self._sock, name)

        def recvmsg(self, size, space, flags):
            data, ancillary, flags, address = real(self._sock, size, space, flags)
            close_all(primary_fds(ancillary))
            return data, [], flags | (socket.MSG_CTRUNC if ancillary else 0), address

    def primary_fds(ancillary):
        return [fd for *_, raw in ancillary for (fd,) in struct.iter_unpack("i", raw)]

    async with Raw() as (primary, peer):
        peer.sendall(note())
        send_with(peer, encode_frame(wire.encode(wire.Joined(1)), 1), [2])
        cast("Any", primary.channel)._sock = Short(primary.channel._sock)
        await until(lambda: primary.losses)
        assert len(primary.heard) == 1
        assert "limit of open descriptors" in str(primary.losses[0])


async def test_too_many_descriptors_in_flight_are_sent_later():
    refusals = 3

    class Refusing:
        def __init__(self, sock):
            self._sock = sock

        def __getattr__(self, name):
            return getattr(self._sock, name)

        def sendmsg(self, *args):
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise OSError(errno.ETOOMANYREFS, "too many references")
            return self._sock.sendmsg(*args)

    async with Pair() as (primary, worker):
        cast("Any", primary.channel.outbox)._sock = Refusing(primary.channel.outbox._sock)
        primary.channel.post(wire.Disconnect(1.0), [os.dup(2)])
        primary.channel.post(wire.Disconnect(2.0))
        await primary.channel.flush()
        await until(lambda: len(worker.heard) == 2)
        assert [(message.grace, len(fds)) for message, fds in worker.heard] == [(1.0, 1), (2.0, 0)]
        assert refusals == 0
