"""Messages, handles and requests between two mailboxes over a real socket pair."""

import asyncio
import functools
import socket
from typing import Any

import pytest

from everycore.core import wire
from everycore.core.frames import NOTE, WIRE, encode_frame
from everycore.core.window import WINDOW, WINDOW_BYTES
from everycore.errors import ChannelFull, ProtocolError
from tests.kit import open_fds, turn
from tests.kit.channel_pairs import Boxes, Raw, send_with, take, until, values


async def spread(sender, count):
    """Send 0..count-1, waiting for room."""
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


async def test_a_closed_stream_of_several_does_not_delay_the_others():
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
        # A taker cancelled during a message does not get it; a new one gets the next.
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
