"""Real socket pairs: order, descriptors, pressure, and the end."""

import asyncio
import os
from typing import Any, cast

import pytest

from everycore.core import wire
from everycore.core.frames import encode_frame
from everycore.errors import ChannelClosed, ProtocolError
from everycore.system.descriptors import close_all, duplicate
from tests.kit import open_fds, turn
from tests.kit.channel_pairs import Pair, Raw, note, until


def same_file(one: int, other: int) -> bool:
    return os.fstat(one).st_ino == os.fstat(other).st_ino


async def test_messages_arrive_in_order_both_ways(loop_factory):
    async with Pair() as (primary, worker):
        for number in range(1000):
            primary.channel.post(wire.Disconnect(float(number)))
            worker.channel.post(wire.Joined(number))
        await until(lambda: len(primary.heard) == len(worker.heard) == 1000)
        assert [message.pid for message, _ in primary.heard] == list(range(1000))
        assert [message.grace for message, _ in worker.heard] == list(range(1000))
        assert not primary.channel.waiting
        assert not primary.losses


async def test_what_one_turn_posts_leaves_in_a_few_sends():
    async with Raw() as (primary, peer):
        for number in range(100):
            primary.channel.post(wire.Disconnect(float(number)))
        await turn()
        frame = encode_frame(wire.encode(wire.Disconnect(0.0)))
        assert len(peer.recv(100_000)) == 100 * len(frame)


class Counting:
    """A socket that counts its sends."""

    def __init__(self, sock):
        self._sock = sock
        self.sends = 0

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def send(self, *args):
        self.sends += 1
        return self._sock.send(*args)


async def test_what_a_chunk_leads_to_leaves_in_one_send_without_another_turn():
    async with Raw() as (primary, peer):
        outbox = cast("Any", primary.channel.outbox)
        outbox._sock = counting = Counting(outbox._sock)
        primary.channel._on_message = lambda message, fds: primary.channel.post(wire.Disconnect(1.0))
        for count in (1, 10):
            counting.sends = 0
            peer.sendall(b"".join(encode_frame(wire.encode(wire.Joined(n))) for n in range(count)))
            await until(lambda: counting.sends)
            assert counting.sends == 1
            assert outbox._flush_handle is None
            frame = encode_frame(wire.encode(wire.Disconnect(0.0)))
            assert len(peer.recv(100_000)) == count * len(frame)


async def test_the_first_frame_of_a_turn_leaves_at_once():
    async with Raw() as (primary, peer):
        for _ in range(3):
            await turn()
            primary.channel.post(wire.Disconnect(1.0))
            assert peer.recv(100_000)
        for number in range(1000):  # a large burst does not wait for the turn's end
            primary.channel.post(wire.Disconnect(float(number)))
        assert len(peer.recv(100_000)) > 900 * len(encode_frame(wire.encode(wire.Disconnect(0.0))))


async def test_a_thousand_descriptors_each_way_at_once(loop_factory):
    read, write = os.pipe()
    down: list[Any] = []
    up: list[Any] = []
    async with Pair() as (primary, worker):
        for number in range(1000):
            primary.channel.post(wire.Disconnect(float(number)), [duplicate(read)] if number % 3 else [])
            worker.channel.post(wire.Joined(number), [duplicate(write) for _ in range(number % 3)])
            if number % 100 == 99:  # descriptors are scarce: take what came
                await until(lambda: len(primary.heard) == len(worker.heard) == 100)
                for end, tally in ((primary, up), (worker, down)):
                    for message, fds in end.heard:
                        assert all(same_file(fd, read) for fd in fds)
                        close_all(fds)
                        tally.append((message, len(fds)))
                    end.heard.clear()
    assert down == [(wire.Disconnect(float(number)), bool(number % 3)) for number in range(1000)]
    assert up == [(wire.Joined(number), number % 3) for number in range(1000)]
    os.close(read)
    os.close(write)


async def test_descriptors_are_close_on_exec():
    async with Pair() as (primary, worker):
        primary.channel.post(wire.Disconnect(1.0), [os.dup(2)])
        await until(lambda: worker.heard)
        assert not os.get_inheritable(worker.heard[0][1][0])


async def test_a_large_message_with_a_descriptor_between_small_ones(loop_factory):
    body = os.urandom(800_000)
    async with Pair() as (primary, worker):
        primary.channel.post(wire.Answer(1, b"before"))
        primary.channel.post(wire.Answer(1, body), [os.dup(2)])
        primary.channel.post(wire.Answer(1, b"after"), [os.dup(2)])
        assert primary.channel.waiting > 500_000
        await until(lambda: len(worker.heard) == 3)
        assert [message.body for message, _ in worker.heard] == [b"before", body, b"after"]
        assert [len(fds) for _, fds in worker.heard] == [0, 1, 1]


async def test_room_and_flush_are_waited_for(loop_factory):
    async with Raw(buffer_limit=100_000) as (primary, peer):
        peer.setblocking(False)
        await primary.channel.wait_room()
        while not primary.channel.is_full:
            primary.channel.outbox.put(note(50_000))
            await turn()
        room = asyncio.ensure_future(primary.channel.wait_room())
        flushed = asyncio.ensure_future(primary.channel.flush())
        await turn(5)
        assert not room.done()
        order = []
        room.add_done_callback(lambda _: order.append("room"))
        flushed.add_done_callback(lambda _: order.append("flushed"))
        while not flushed.done():
            try:
                peer.recv(10_000)
            except BlockingIOError:
                pass
            await turn()
        await until(room.done)
        await turn()
        assert order == ["room", "flushed"]
        assert primary.channel.waiting == 0


async def test_the_end_of_the_channel_ends_all_waiting():
    async with Raw(buffer_limit=1000) as (primary, peer):
        primary.channel.outbox.put(note(900_000))
        room = asyncio.ensure_future(primary.channel.wait_room())
        flushed = asyncio.ensure_future(primary.channel.flush())
        cancelled = asyncio.ensure_future(primary.channel.flush())
        await turn()
        cancelled.cancel()
        peer.close()
        with pytest.raises(ChannelClosed):
            await room
        await flushed
        assert primary.losses == [None]


async def test_a_peer_that_asks_and_never_reads_is_not_read_any_more(loop_factory):
    async with Raw(buffer_limit=100_000) as (primary, peer):
        peer.setblocking(False)
        asked, request = 0, note(100)
        answer = encode_frame(wire.encode(wire.Answer(1, b"y" * 1000)))
        primary.channel._on_message = lambda message, fds: primary.channel.post(wire.Answer(1, b"y" * 1000))
        idle = 0
        while idle < 50:
            try:
                asked += peer.send(request)
                idle = 0
            except BlockingIOError:
                idle += 1
            await turn()
        answered = primary.channel.waiting
        assert 100_000 < answered < 100_000 + 80_000
        await turn(50)
        assert primary.channel.waiting == answered
        received = 0
        while received < asked // len(request) * len(answer):  # it reads after all: nothing was lost
            try:
                received += len(peer.recv(100_000))
            except BlockingIOError:
                pass
            await turn()
        assert primary.channel.waiting == 0


async def test_data_does_not_stop_the_reading():
    async with Pair(buffer_limit=1000) as (primary, worker):
        for _ in range(40):
            primary.channel.outbox.put(note(100_000))
            worker.channel.outbox.put(note(100_000))
        await until(lambda: len(primary.heard) == len(worker.heard) == 40)


async def test_reading_pauses_and_resumes():
    async with Pair() as (primary, worker):
        primary.channel.pause_reading()
        worker.channel.post(wire.Joined(1))
        await turn(10)
        assert not primary.heard
        primary.channel.resume_reading()
        await until(lambda: primary.heard)


async def test_the_last_words_are_heard_before_the_end(loop_factory):
    async with Pair() as (primary, worker):
        for number in range(100):
            worker.channel.post(wire.Joined(number))
        await worker.channel.flush()
        worker.channel.close()
        primary.channel.read_to_end()
        assert len(primary.heard) == 100
        assert primary.losses == [None]
        primary.channel.read_to_end()
        await turn(5)
        assert primary.losses == [None]


async def test_reading_to_the_end_does_not_wait_for_a_process_with_the_other_end():
    async with Pair() as (primary, worker):
        heir = worker.sock.dup()
        worker.channel.post(wire.Joined(1))
        await worker.channel.flush()
        worker.channel.close()
        primary.channel.read_to_end()
        assert len(primary.heard) == 1
        assert primary.losses == [None]
        heir.close()


async def test_reading_to_the_end_from_inside_a_message_keeps_the_order():
    async with Pair() as (primary, worker):
        heard = []

        def on_message(message, fds):
            heard.append(message.pid)
            close_all(fds)
            primary.channel.read_to_end()

        primary.channel._on_message = on_message
        for number in range(10):
            worker.channel.post(wire.Joined(number))
        worker.channel.post(wire.Joined(10), [os.dup(2)])
        await worker.channel.flush()
        worker.channel.close()
        await until(lambda: primary.losses)
        assert heard == list(range(11))


async def test_writing_to_a_peer_that_is_gone_still_hears_its_last_words(loop_factory):
    async with Pair() as (primary, worker):
        primary.channel.pause_reading()
        worker.channel.post(wire.Joined(7))
        await worker.channel.flush()
        worker.channel.close()
        primary.channel.post(wire.Disconnect(1.0), [os.dup(2)])
        await until(lambda: primary.losses)
        assert [message.pid for message, _ in primary.heard] == [7]
        assert primary.losses == [None]
        primary.channel.post(wire.Disconnect(1.0), [os.dup(2)])  # nothing happens, and nothing leaks


async def test_a_peer_that_died_without_reading_is_an_ordinary_end():
    async with Pair() as (primary, worker):
        worker.channel.pause_reading()
        primary.channel.post(wire.Disconnect(1.0))
        await primary.channel.flush()
        worker.channel.close()
        await until(lambda: primary.losses)
        assert primary.losses == [None]


async def test_close_drops_everything_and_says_nothing():
    before = open_fds()
    async with Pair() as (primary, _):
        for _ in range(50):
            primary.channel.post(wire.Answer(1, b"x" * 100_000), [os.dup(2)])
        primary.channel.close()
        primary.channel.close()
        assert primary.channel.is_closed
        assert not primary.losses
    assert open_fds() == before


async def test_a_handler_that_fails_is_logged_and_the_next_message_comes(caplog):
    async with Pair() as (primary, worker):
        heard = []

        def on_message(message, fds):
            heard.append(message.pid)
            raise LookupError("what is this")

        primary.channel._on_message = on_message
        worker.channel.post(wire.Joined(1))
        worker.channel.post(wire.Joined(2))
        await until(lambda: len(heard) == 2)
        assert "what is this" in caplog.text
        assert not primary.losses


async def test_a_handler_may_find_a_violation_or_close():
    async with Pair() as (primary, worker):

        def on_message(message, fds):
            raise ProtocolError("a second Joined")

        primary.channel._on_message = on_message
        worker.channel.post(wire.Joined(1))
        worker.channel.post(wire.Joined(2), [os.dup(2)])
        await until(lambda: primary.losses)
        assert [str(loss) for loss in primary.losses] == ["a second Joined"]
    async with Pair() as (primary, worker):
        primary.channel._on_message = lambda message, fds: primary.channel.close()
        worker.channel.post(wire.Joined(1))
        worker.channel.post(wire.Joined(2), [os.dup(2)])
        await until(lambda: primary.channel.is_closed)
        assert not primary.losses
