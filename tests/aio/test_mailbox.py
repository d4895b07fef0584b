"""Messages, handles and requests between two mailboxes over a real socket pair."""

import asyncio
import collections
import enum
import errno
import functools
import gc
import io
import os
import socket
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from everycore.core import wire
from everycore.core.frames import NOTE, WIRE, encode_frame
from everycore.core.window import WINDOW, WINDOW_BYTES
from everycore.errors import ChannelClosed, ChannelFull, ProtocolError, RequestFailed, RequestTimeout
from everycore.model import ExitStatus
from everycore.system.descriptors import Descriptor
from tests.kit import open_fds, turn
from tests.kit.channel_pairs import LOOPS, MAX_MESSAGE, Pair, Raw, send_with, until


@pytest.fixture(params=LOOPS, ids=lambda factory: factory.__module__)
def loop_factory(request):
    return request.param


def Boxes(**options):
    """`async with Boxes() as (primary, worker)`: two ends with mailboxes."""
    return Pair(**{"serialization": "json", **options})


async def take(stream, count):
    return [await anext(stream) for _ in range(count)]


def values(messages):
    return [message.message for message in messages]


async def spread(sender, count):
    """Send 0..count-1 as one who waits for room does."""
    for number in range(count):
        await sender.mailbox.send(number)


# --- messages


async def test_messages_arrive_in_order_both_ways(loop_factory):
    async with Boxes() as (primary, worker):
        up, down = primary.mailbox.messages(), worker.mailbox.messages()
        senders = [asyncio.ensure_future(spread(end, 5000)) for end in (primary, worker)]
        results = await asyncio.gather(take(up, 5000), take(down, 5000))
        assert [values(result) for result in results] == [list(range(5000))] * 2
        await asyncio.gather(*senders)


async def test_values_arrive_as_they_were():
    value = {"a": [1, 2.5, None, True, b"\x00", "é"], 3: {}, None: (1, 2)}
    async with Boxes() as (primary, worker):
        await primary.mailbox.send(value)
        [message] = await take(worker.mailbox.messages(), 1)
        assert message.message == {"a": [1, 2.5, None, True, b"\x00", "é"], 3: {}, None: [1, 2]}
        assert message.handle is None


async def test_bad_values_raise_at_the_call_and_keep_the_handle():
    left, right = socket.socketpair()
    async with Boxes(max_message=1000) as (primary, _):
        for bad, error in (
            ({"a": [{1}]}, TypeError),
            (2**64, OverflowError),
            ("\ud800", ValueError),
            ("x" * 1001, ValueError),
        ):
            for call in (
                primary.mailbox.send,
                primary.mailbox.send_nowait,
                functools.partial(primary.mailbox.request, timeout=None),
            ):
                with pytest.raises(error):
                    call(bad, left)  # not awaited
        with pytest.raises(ValueError, match="a message of 1004 bytes; at most 1000 are allowed"):
            primary.mailbox.send_nowait("x" * 1001)
        assert left.fileno() >= 0
        primary.mailbox.send_nowait("x" * 990)
    left.close()
    right.close()


async def test_messages_wait_for_the_first_taker():
    async with Boxes() as (primary, worker):
        await spread(primary, 100)
        await turn(10)
        stream = worker.mailbox.messages()
        assert values(await take(stream, 100)) == list(range(100))


async def test_a_stream_is_subscribed_at_the_call_and_each_gets_all():
    async with Boxes() as (primary, worker):
        streams = [worker.mailbox.messages() for _ in range(3)]
        heard = []
        worker.mailbox.on_message(lambda message: heard.append(message.message))
        await spread(primary, 50)
        for stream in streams:
            assert values(await take(stream, 50)) == list(range(50))
        assert heard == list(range(50))


async def test_a_broken_loop_loses_nothing():
    async with Boxes() as (primary, worker):
        await spread(primary, 10)
        heard = []
        async for message in worker.mailbox.messages():
            heard.append(message.message)
            if message.message == 3:
                break
        await turn(5)
        async with worker.mailbox.messages() as stream:
            heard += values(await take(stream, 6))
        assert heard == list(range(10))


async def test_a_closed_stream_of_several_holds_nobody_up():
    async with Boxes() as (primary, worker):
        keeps, leaves = worker.mailbox.messages(), worker.mailbox.messages()
        sender = asyncio.ensure_future(spread(primary, 3 * WINDOW))
        assert values(await take(keeps, WINDOW)) == list(range(WINDOW))
        await turn(20)
        assert not keeps._feed.items  # the other one has taken nothing
        await leaves.aclose()
        assert values(await take(keeps, 2 * WINDOW)) == list(range(WINDOW, 3 * WINDOW))
        await sender


async def test_callbacks_are_plain_and_their_errors_logged(caplog):
    async with Boxes() as (primary, worker):
        heard = []

        async def coroutine(message):
            pass

        def broken(message):
            raise LookupError("not here")

        with pytest.raises(TypeError, match="plain function"):
            worker.mailbox.on_message(coroutine)
        worker.mailbox.on_message(broken)
        second = worker.mailbox.on_message(lambda message: heard.append(message.message))
        await spread(primary, 2)
        await until(lambda: len(heard) == 2)
        assert "broken" in caplog.text
        assert "LookupError: not here" in caplog.text
        second.cancel()
        await spread(primary, 2)
        await turn(10)
        assert heard == [0, 1]


async def test_a_callback_may_cancel_another():
    async with Boxes() as (primary, worker):
        heard: list[Any] = []
        others: list[Any] = []
        worker.mailbox.on_message(lambda message: others[0].cancel())
        others.append(worker.mailbox.on_message(heard.append))
        stream = worker.mailbox.messages()
        await spread(primary, 1)
        await take(stream, 1)
        assert heard == []


async def test_early_messages_reach_a_callback_before_later_ones():
    async with Boxes() as (primary, worker):
        await spread(primary, 10)
        await turn(5)
        heard = []
        worker.mailbox.on_message(lambda message: heard.append(message.message))
        primary.mailbox.send_nowait("last")
        await until(lambda: len(heard) == 11)
        assert heard == [*range(10), "last"]


# --- pressure


async def test_a_peer_that_takes_nothing_fills_the_window_then_the_sender(loop_factory):
    async with Boxes(buffer_limit=10_000) as (primary, worker):
        sent = 0
        with pytest.raises(ChannelFull) as caught:
            while True:
                primary.mailbox.send_nowait({"n": sent})
                sent += 1
                await turn()
        assert sent > WINDOW
        assert caught.value.waiting >= 10_000
        assert len(worker.mailbox._delivery._backlog) == WINDOW
        waiting = asyncio.ensure_future(primary.mailbox.send({"n": sent}))
        await turn(20)
        assert not waiting.done()
        # Control passes by.
        primary.channel.post(wire.Disconnect(1.0))
        await until(lambda: worker.heard)
        heard = await take(worker.mailbox.messages(), sent + 1)
        assert values(heard) == [{"n": n} for n in range(sent + 1)]
        await waiting


async def test_both_sides_send_much_and_take_late():
    async with Boxes(buffer_limit=50_000) as (primary, worker):
        senders = [asyncio.ensure_future(spread(end, 10_000)) for end in (primary, worker)]
        await turn(200)
        assert not any(sender.done() for sender in senders)
        streams = [end.mailbox.messages() for end in (primary, worker)]
        assert [values(part) for part in await asyncio.gather(*(take(s, 10_000) for s in streams))] == [
            list(range(10_000))
        ] * 2
        await asyncio.gather(*senders)


async def test_large_messages_are_held_by_their_bytes():
    async with Boxes() as (primary, worker):
        body = b"x" * 500_000
        senders = [asyncio.ensure_future(primary.mailbox.send(body)) for _ in range(30)]
        await turn(300)
        assert WINDOW_BYTES <= worker.mailbox._delivery._incoming.size < WINDOW_BYTES + 2 * len(body)
        assert len(await take(worker.mailbox.messages(), 30)) == 30
        await asyncio.gather(*senders)


async def test_flush_waits_for_the_window_too():
    async with Boxes() as (primary, worker):
        for number in range(WINDOW + 10):
            primary.mailbox.send_nowait(number)
        flushed = asyncio.ensure_future(primary.mailbox.flush())
        await turn(20)
        assert not flushed.done()
        await take(worker.mailbox.messages(), WINDOW)
        await flushed


async def test_a_cancelled_send_is_sent_all_the_same():
    async with Boxes(buffer_limit=100) as (primary, worker):
        primary.channel.outbox.hold(1000)
        sending = asyncio.ensure_future(primary.mailbox.send("kept"))
        await turn(3)
        sending.cancel()
        primary.channel.outbox.hold(-1000)
        assert values(await take(worker.mailbox.messages(), 1)) == ["kept"]


async def test_more_than_the_window_is_a_violation():
    async with Raw(serialization="json") as (primary, peer):
        peer.setblocking(False)
        frame = encode_frame(b"\x01", 0, NOTE)
        for _ in range(WINDOW + 1):
            peer.send(frame)
            await turn()
        await until(lambda: primary.losses)
        assert isinstance(primary.losses[0], ProtocolError)
        assert "not taken" in str(primary.losses[0])
        assert len(values([m async for m in primary.mailbox.messages()])) == WINDOW  # what was good is kept


@pytest.mark.parametrize(
    "message",
    [
        wire.Took(1, 0),
        wire.Took(0, 0),
        wire.Took(-1, 0),
        wire.Answer(1, b"\xc0"),
        wire.Failure(0, "X", ""),
    ],
    ids=str,
)
async def test_reports_and_answers_of_what_never_was_are_violations(message):
    async with Raw(serialization="json") as (primary, peer):
        peer.sendall(encode_frame(wire.encode(message)))
        await until(lambda: primary.losses)
        assert isinstance(primary.losses[0], ProtocolError)


@pytest.mark.parametrize(
    ("message", "count"),
    [(wire.Note(b"\xc0"), 2), (wire.Ask(1, b"\xc0"), 2), (wire.Answer(1, b"\xc0"), 1), (wire.Took(1, 1), 1)],
    ids=str,
)
async def test_descriptors_where_none_belong_are_violations(message, count):
    before = open_fds()
    async with Raw(serialization="json") as (primary, peer):
        body, kind = (message.body, NOTE) if isinstance(message, wire.Note) else (wire.encode(message), WIRE)
        send_with(peer, encode_frame(body, count, kind), [2] * count)
        await until(lambda: primary.losses)
        assert isinstance(primary.losses[0], ProtocolError)
    assert open_fds() == before


async def test_an_undecodable_value_is_a_violation_found_by_its_consumer():
    async with Raw(serialization="json") as (primary, peer):
        peer.sendall(encode_frame(b"\xc1", 0, NOTE))
        send_with(peer, encode_frame(b"\xc1", 1, NOTE), [2])
        await until(lambda: len(primary.mailbox._delivery._backlog) == 2)
        assert [message async for message in primary.mailbox.messages()] == []
        assert isinstance(primary.losses[0], ProtocolError)


@pytest.mark.parametrize("fds", [[], [2]], ids=["plain", "with a handle"])
async def test_a_callback_hears_what_came_before_an_undecodable_value(fds):
    before = open_fds()
    async with Raw(serialization="json") as (primary, peer):
        heard = []
        primary.mailbox.on_message(lambda message: heard.append(message.message))
        send_with(peer, encode_frame(b"\x01", 0, NOTE) + encode_frame(b"\x02", 0, NOTE), [])
        send_with(peer, encode_frame(b"\xc1", len(fds), NOTE) + encode_frame(b"\x03", 0, NOTE), fds)
        await until(lambda: primary.losses)
        assert heard == [1, 2]
        assert isinstance(primary.losses[0], ProtocolError)
    assert open_fds() == before


async def test_takers_come_and_go_between_the_messages_of_one_chunk():
    async with Raw(serialization="json") as (primary, peer):
        heard: list[Any] = []

        def first(message):
            heard.append(("first", message.message))
            if message.message == 1:
                subscriptions.append(primary.mailbox.on_message(second))
            if message.message == 3:
                subscriptions[1].cancel()
            if message.message == 5:
                subscriptions[0].cancel()

        def second(message):
            heard.append(("second", message.message))

        subscriptions = [primary.mailbox.on_message(first)]
        peer.sendall(b"".join(encode_frame(bytes([n]), 0, NOTE) for n in range(8)))
        await until(lambda: len(primary.mailbox._delivery._backlog) == 2)
        # Who is cancelled by another during a message does not get it, who is new gets the next.
        assert heard == [("first", n) for n in (0, 1, 2)] + [("second", 2)] + [
            ("first", n) for n in (3, 4, 5)
        ]
        primary.mailbox.on_message(second)
        peer.sendall(encode_frame(b"\x09", 0, NOTE))
        await until(lambda: len(heard) == 10)
        assert heard[-3:] == [("second", n) for n in (6, 7, 9)]


async def test_asking_and_never_reading_costs_no_memory(loop_factory):
    async with Raw(serialization="json", buffer_limit=100_000) as (primary, peer):
        running = 0

        async def handler(message, handle):
            nonlocal running
            running += 1
            return "y" * 10_000

        primary.mailbox.answer(handler)
        peer.setblocking(False)
        for number in range(1, WINDOW + 1):
            while True:
                try:
                    peer.send(encode_frame(wire.encode(wire.Ask(number, b"\xc0"))))
                    break
                except BlockingIOError:
                    await turn()
        await turn(50)
        assert running < 100
        assert primary.channel.waiting < 1_000_000
        received = 0
        while running < WINDOW or primary.channel.waiting:
            try:
                received += len(peer.recv(100_000))
            except BlockingIOError:
                pass
            await turn()
        assert received > 10_000_000


# --- handles


async def test_handles_arrive_as_what_they_are(tmp_path, loop_factory):
    left, right = socket.socketpair()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    address = udp.getsockname()
    file = (tmp_path / "file").open("w")
    file.write("buffered")
    async with Boxes() as (primary, worker):
        stream = worker.mailbox.messages()
        for name, handle in (("stream", left), ("datagram", udp), ("file", file)):
            await primary.mailbox.send(name, handle)
        assert left.fileno() == udp.fileno() == -1
        assert file.closed
        with pytest.raises(OSError) as caught:
            primary.mailbox.send("again", left)
        assert caught.value.errno == errno.EBADF
        one, two, three = await take(stream, 3)
        assert (one.handle.family, one.handle.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        assert (two.handle.family, two.handle.type) == (socket.AF_INET, socket.SOCK_DGRAM)
        assert two.handle.getsockname() == address
        assert isinstance(three.handle, Descriptor)
        assert os.fstat(three.handle.fileno()).st_size == len("buffered")
        one.handle.sendall(b"hello")
        assert right.recv(10) == b"hello"
        await worker.mailbox.send("back", three.handle)
        assert three.handle.fileno() == -1
        [back] = await take(primary.mailbox.messages(), 1)
        for handle in (one.handle, two.handle, back.handle, right):
            handle.close()


async def test_a_kept_handle_stays_usable():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        for _ in range(3):
            await primary.mailbox.send("x", left, keep_open=True)
        for message in await take(worker.mailbox.messages(), 3):
            assert os.fstat(message.handle.fileno()).st_ino == os.fstat(left.fileno()).st_ino
            message.handle.close()
        left.sendall(b"mine")
        assert right.recv(10) == b"mine"
    left.close()
    right.close()


async def test_a_handle_is_duplicated_at_the_call():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        sending = primary.mailbox.send("x", left, keep_open=True)
        left.close()
        await sending
        [message] = await take(worker.mailbox.messages(), 1)
        message.handle.sendall(b"alive")
        assert right.recv(10) == b"alive"
        message.handle.close()
    right.close()


async def test_what_is_no_handle_is_refused():
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    async with Boxes() as (primary, worker):
        shown = writer.get_extra_info("socket")
        for wrong in (writer, writer.transport, shown, 7, "x", reader):
            with pytest.raises(TypeError):
                primary.mailbox.send("x", wrong)
        with pytest.raises((OSError, ValueError)):
            primary.mailbox.send("x", io.BytesIO())
        closed = socket.socket()
        closed.close()
        with pytest.raises(OSError) as caught:
            primary.mailbox.send_nowait("x", closed)
        assert caught.value.errno == errno.EBADF
        await turn(5)
        assert not worker.mailbox._delivery._backlog
    writer.close()
    await writer.wait_closed()
    right.close()


async def test_a_file_that_fails_to_close_is_not_sent(tmp_path):
    class Failing(io.FileIO):
        fails = True

        def close(self):
            super().close()
            if self.fails:
                self.fails = False
                raise OSError(errno.ENOSPC, "full")

    async with Boxes() as (primary, worker):
        with pytest.raises(OSError, match="full"):
            primary.mailbox.send("x", Failing(tmp_path / "file", "w"))
        await turn(5)
        assert not worker.mailbox._delivery._backlog


async def test_a_thousand_handles_each_way_at_once(loop_factory):
    read, write = os.pipe()

    async def send(end, fd):
        handle = Descriptor(os.dup(fd))
        limit = asyncio.Semaphore(100)  # descriptors are few: as many as the other side has not closed yet
        limits[end] = limit
        for number in range(1000):
            await limit.acquire()
            await end.mailbox.send(number, handle if number % 2 else None, keep_open=True)
        handle.close()

    async def receive(end, other):
        async with end.mailbox.messages() as stream:
            for number in range(1000):
                message = await anext(stream)
                assert message.message == number
                assert (message.handle is not None) == bool(number % 2)
                if message.handle:
                    assert os.fstat(message.handle.fileno()).st_ino == os.fstat(read).st_ino
                    message.handle.close()
                limits[other].release()

    async with Boxes() as (primary, worker):
        limits = {}
        await asyncio.gather(
            send(primary, read), send(worker, write), receive(worker, primary), receive(primary, worker)
        )
    os.close(read)
    os.close(write)


async def test_a_handle_goes_to_the_first_stream_else_to_the_first_callback():
    def pipe_end():
        read, write = os.pipe()
        os.close(write)
        return Descriptor(read)

    async with Boxes() as (primary, worker):
        heard = []
        worker.mailbox.on_message(lambda message: heard.append(("a", message.handle)))
        worker.mailbox.on_message(lambda message: heard.append(("b", message.handle)))
        await primary.mailbox.send(1, pipe_end())
        await until(lambda: len(heard) == 2)
        assert [(name, handle is not None) for name, handle in heard] == [("a", True), ("b", False)]
        first, second = worker.mailbox.messages(), worker.mailbox.messages()
        await primary.mailbox.send(2, pipe_end())
        [other] = await take(second, 1)
        [owner] = await take(first, 1)
        assert other.handle is None
        assert isinstance(owner.handle, Descriptor)
        assert [handle for _, handle in heard[2:]] == [None, None]


async def test_a_handle_waits_with_its_message_for_a_taker():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        await primary.mailbox.send("early", left)
        await until(lambda: worker.mailbox._delivery._backlog)
        stream = worker.mailbox.messages()
        await turn(3)
        del stream  # never read: the message and its handle go back
        gc.collect()
        [message] = await take(worker.mailbox.messages(), 1)
        message.handle.close()
    right.close()


async def test_handles_that_nobody_takes_are_closed_counted_and_warned_of_once(caplog):
    pairs = [socket.socketpair() for _ in range(5)]
    async with Boxes() as (primary, worker):
        for left, _ in pairs:
            await primary.mailbox.send("x", left)
        await until(lambda: len(worker.mailbox._delivery._backlog) == 5)
        primary.close()
        await until(lambda: worker.losses)
        assert [right.recv(1) for _, right in pairs] == [b""] * 5
        assert worker.mailbox.dropped_handles == 5
        assert caplog.text.count("taken by nobody") == 1
        # The messages themselves stay.
        assert [(m.message, m.handle) async for m in worker.mailbox.messages()] == [("x", None)] * 5
    for _, right in pairs:
        right.close()


async def test_an_owner_that_leaves_drops_its_handle_when_others_have_the_message():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        first, second = worker.mailbox.messages(), worker.mailbox.messages()
        await primary.mailbox.send("x", left)
        [message] = await take(second, 1)
        assert message.handle is None
        await first.aclose()
        assert right.recv(1) == b""
        assert worker.mailbox.dropped_handles == 1
    right.close()


async def test_a_stream_keeps_what_it_holds_when_the_channel_is_lost():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        stream = worker.mailbox.messages()
        await primary.mailbox.send("last words", left)
        await primary.mailbox.flush()
        primary.close()
        await until(lambda: worker.losses)
        messages = [message async for message in stream]
        assert values(messages) == ["last words"]
        messages[0].handle.close()
    right.close()


async def test_queued_handles_are_closed_when_the_channel_is():
    before = open_fds()
    async with Boxes() as (primary, worker):
        for _ in range(WINDOW):
            primary.mailbox.send_nowait("x")
        for _ in range(20):
            primary.mailbox.send_nowait("y", Descriptor(os.dup(2)))
        primary.mailbox.close()
        stream = worker.mailbox.messages()
        await turn(10)
        del stream
    assert open_fds() == before


# --- requests


async def echo(message, handle):
    return {"you said": message}


async def test_requests_are_answered_both_ways_at_once(loop_factory):
    async with Boxes() as (primary, worker):
        for end in (primary, worker):
            end.mailbox.answer(echo)
        replies = await asyncio.gather(
            *(end.mailbox.request(n, timeout=30) for n in range(3000) for end in (primary, worker))
        )
        assert replies == [{"you said": n} for n in range(3000) for _ in range(2)]


async def test_a_request_carries_a_handle_that_the_handler_owns():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):

        async def handler(message, handle):
            handle.sendall(b"from the worker")
            handle.close()
            return message

        worker.mailbox.answer(handler)
        assert await primary.mailbox.request("x", left, timeout=None) == "x"
        assert left.fileno() == -1
        assert right.recv(100) == b"from the worker"
    right.close()


async def test_a_handler_that_raises_fails_the_request():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    async with Boxes() as (primary, worker):

        async def handler(message, handle):
            if message == "closed":
                raise ChannelClosed("worker 7")
            if message == "odd":
                raise Odd
            if message == "value":
                return {1, 2}
            if message == "large":
                return "x" * (MAX_MESSAGE + 1)
            raise LookupError("no \ud800 " + "x" * 100_000)

        worker.mailbox.answer(handler)
        for message, type_name, text in (
            ("raise", "LookupError", "no ? xxx"),
            ("closed", "ChannelClosed", "the channel to worker 7 is closed"),
            ("odd", "Odd", "(its text could not be made)"),
            ("value", "TypeError", "message: set is not a value that can be sent"),
            ("large", "ValueError", "a message of"),
        ):
            with pytest.raises(RequestFailed) as caught:
                await primary.mailbox.request(message, timeout=10)
            assert caught.value.type_name == type_name
            assert caught.value.text.startswith(text)
            assert len(caught.value.text) <= 2000


async def test_without_a_handler_a_request_fails_and_its_handle_is_closed():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        with pytest.raises(RequestFailed, match="nobody answers requests") as caught:
            await primary.mailbox.request("x", left, timeout=10)
        assert caught.value.type_name == "LookupError"
        assert right.recv(1) == b""
        worker.mailbox.answer(echo).cancel()
        with pytest.raises(RequestFailed, match="nobody answers requests"):
            await primary.mailbox.request("x", timeout=10)
    right.close()


async def test_there_is_one_handler_a_side_and_it_is_a_coroutine_function():
    async with Boxes() as (_, worker):
        with pytest.raises(TypeError, match="must be a coroutine function"):
            worker.mailbox.answer(lambda message, handle: 3)
        subscription = worker.mailbox.answer(functools.partial(echo))
        with pytest.raises(RuntimeError, match="echo answers already"):
            worker.mailbox.answer(echo)
        subscription.cancel()
        with worker.mailbox.answer(echo):
            subscription.cancel()  # of the first: the second stays
            with pytest.raises(RuntimeError):
                worker.mailbox.answer(echo)


async def test_requests_time_out_and_late_answers_are_ignored():
    async with Boxes() as (primary, worker):
        go = asyncio.Event()

        async def slow(message, handle):
            await go.wait()
            return message

        worker.mailbox.answer(slow)
        with pytest.raises(RequestTimeout, match=r"the worker did not answer within 0.001 s"):
            await primary.mailbox.request("x", timeout=0.001)
        cancelled = asyncio.ensure_future(primary.mailbox.request("y", timeout=None))
        await turn(3)
        cancelled.cancel()
        go.set()
        assert await primary.mailbox.request("z", timeout=10) == "z"
        assert not primary.losses
        assert not primary.mailbox._requests._replies
        for bad in (-1, float("nan"), "3", True):
            with pytest.raises(ValueError, match="timeout"):
                primary.mailbox.request("x", timeout=bad)


async def test_each_request_has_a_deadline_of_its_own():
    async with Boxes() as (primary, worker):
        go = asyncio.Event()

        async def slow(message, handle):
            await go.wait()
            return message

        worker.mailbox.answer(slow)
        order = []

        async def ask(timeout):
            try:
                await primary.mailbox.request("x", timeout=timeout)
            except RequestTimeout:
                order.append(timeout)

        asking = [asyncio.ensure_future(ask(timeout)) for timeout in (60, 0.02, None, 0.001, 0.04)]
        await asyncio.gather(asking[1], asking[3], asking[4])
        assert order == [0.001, 0.02, 0.04]
        go.set()
        await asyncio.gather(*asking)
        assert order == [0.001, 0.02, 0.04]
        assert not primary.mailbox._requests._deadlines


async def test_a_lost_channel_fails_requests_with_the_peers_status():
    async with Boxes() as (primary, worker):

        async def never(message, handle):
            await asyncio.Event().wait()

        worker.mailbox.answer(never)
        request = asyncio.ensure_future(primary.mailbox.request("x", timeout=None))
        await until(lambda: worker.mailbox._requests._handling)
        primary.mailbox.peer_status = status = ExitStatus(code=3)
        worker.close()
        with pytest.raises(ChannelClosed, match=r"the worker is closed \(exit status 3\)") as caught:
            await request
        assert caught.value.status is status
        for call in (primary.mailbox.send, primary.mailbox.send_nowait):
            with pytest.raises(ChannelClosed, match="exit status 3"):
                call("x")
        with pytest.raises(ChannelClosed, match="exit status 3"):
            primary.mailbox.request("x", timeout=1)
        with pytest.raises(ChannelClosed, match="exit status 3"):
            await primary.mailbox.wait_room()


async def test_a_sender_that_waits_hears_of_the_end():
    async with Boxes(buffer_limit=1000) as (primary, worker):
        primary.channel.outbox.hold(5000)
        sending = asyncio.ensure_future(primary.mailbox.send("x"))
        await turn(2)
        worker.channel.close()
        with pytest.raises(ChannelClosed):
            await sending


async def test_a_cancelled_handler_fails_its_request():
    async with Boxes() as (primary, worker):

        async def handler(message, handle):
            task = asyncio.current_task()
            assert task
            task.cancel()
            await asyncio.Event().wait()

        worker.mailbox.answer(handler)
        with pytest.raises(RequestFailed, match="CancelledError"):
            await primary.mailbox.request("x", timeout=10)


async def test_a_handler_that_is_cancelled_before_its_first_step_fails_its_request_and_closes_its_handle():
    """As at the end of `asyncio.run`, which cancels whatever there is."""
    async with Boxes() as (primary, worker):
        worker.mailbox.answer(echo)
        reading, writing = os.pipe()
        with open(reading, "rb", buffering=0) as mine, open(writing, "wb", buffering=0) as theirs:  # noqa: ASYNC230
            loop = asyncio.get_running_loop()
            create_task = loop.create_task
            cancelled = []

            def create_cancelled(coroutine, **options):
                task = create_task(coroutine, **options)
                if "_handle" in coroutine.__qualname__:
                    task.cancel()
                    cancelled.append(task)
                return task

            worker.mailbox._requests._loop = SimpleNamespace(create_task=create_cancelled, time=loop.time)
            with pytest.raises(RequestFailed, match="CancelledError"):
                await primary.mailbox.request("x", theirs, timeout=10)
            assert mine.read(1) == b""  # nobody has the other end any more
            assert len(cancelled) == 1
            assert not worker.mailbox._requests._handling


async def test_open_requests_are_bounded_by_the_window():
    async with Boxes() as (primary, worker):
        go, running = asyncio.Event(), 0

        async def handler(message, handle):
            nonlocal running
            running += 1
            await go.wait()

        worker.mailbox.answer(handler)
        requests = [
            asyncio.ensure_future(primary.mailbox.request(n, timeout=None)) for n in range(WINDOW + 100)
        ]
        await turn(50)
        assert running == WINDOW
        go.set()
        await asyncio.gather(*requests)
        assert running == WINDOW + 100


# --- pickle


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = 1


_loads: list[str] = []


def _load(value):
    _loads.append(value)
    if value == "bad":
        raise LookupError("no such thing")
    return value


class Loaded:
    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return _load, (self.value,)


async def test_pickle_is_decoded_by_its_consumer_alone(caplog):
    _loads.clear()
    async with Boxes(serialization="pickle") as (primary, worker):
        for value in (Colour.RED, {1, 2}, Loaded("good"), Loaded("bad"), "end"):
            await primary.mailbox.send(value)
        await until(lambda: len(worker.mailbox._delivery._backlog) == 5)
        stream = worker.mailbox.messages()
        await turn(5)
        assert _loads == []
        assert values(await take(stream, 4)) == [Colour.RED, {1, 2}, "good", "end"]
        assert _loads == ["good", "bad"]
        assert "could not be decoded and is dropped" in caplog.text
        assert not worker.losses


async def test_pickled_requests_that_can_not_be_loaded_fail():
    async with Boxes(serialization="pickle") as (primary, worker):

        async def handler(message, handle):
            return Loaded("bad") if message == "reply" else message

        worker.mailbox.answer(handler)
        assert await primary.mailbox.request(Colour.RED, timeout=10) is Colour.RED
        for message in ("reply", Loaded("bad")):
            with pytest.raises(RequestFailed, match=r"LookupError: .*no such thing"):
                await primary.mailbox.request(message, timeout=10)
        with pytest.raises(Exception, match=r"[Pp]ickle"):
            primary.mailbox.send_nowait(lambda: None)
        assert not primary.losses


async def test_named_tuples_and_ordered_dicts_arrive_plain():
    async with Boxes() as (primary, worker):
        await primary.mailbox.send(collections.OrderedDict(a=Point(1, 2)))
        assert values(await take(worker.mailbox.messages(), 1)) == [{"a": [1, 2]}]
