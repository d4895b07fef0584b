"""Workers that break the protocol of their belts."""

import os
import socket

import pytest

from everycore.core import wire
from everycore.core.lanes import MOST_CREDIT, RECALL_AFTER
from tests.kit.stage import stage


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([wire.Acked(1)], "acknowledged connection 1; only 0"),
        ([wire.Acked(10**12)], "only 0 were handed over"),
        ([wire.GiveBack(1, None)], "0 descriptors"),
        ([wire.Serve(0)], "asked for 0"),
        ([wire.Serve(17)], "asked for 17"),
        ([wire.Serve(-1)], "asked for -1"),
        ([wire.Serve(1, 0)], "with room for 0"),
        ([b"\xc1"], "unreadable"),
        ([b"\x00" * 100], "unreadable"),
        ([wire.encode(wire.Handover(1, []))], "unreadable"),
        ([b"\x93\xa8GiveBack\x01\xa1\xff"], "unreadable"),
        ([b"\x93\xa8GiveBack\x01" + b"\x91" * 4000 + b"\xc0"], "unreadable"),
    ],
    ids=str,
)
async def test_a_worker_that_breaks_the_protocol_is_reported_and_others_are_served(words, reason):
    async with stage(1, 2) as it:
        for word in words:
            it.workers[1].end.send(word if isinstance(word, bytes) else wire.encode(word))
        await it.settled()
        ((_, number, text),) = [event for event in it.events if event[0] == "violated"]
        assert number == 1
        assert reason in text
        ports = await it.connect(2)
        assert it.workers[2].take_all() == ports


@pytest.mark.parametrize("word", [wire.Acked(0), wire.Serve(1), wire.Full(), wire.Close(), b"\xc1"], ids=str)
async def test_descriptors_that_do_not_belong_are_closed(word):
    async with stage(1, 2) as it:
        reading, writing = os.pipe()
        data = word if isinstance(word, bytes) else wire.encode(word)
        socket.send_fds(it.workers[1].end, [data], [writing] * 3)
        os.close(writing)
        await it.settled()
        assert any(event[0] == "violated" for event in it.events)
        assert os.read(reading, 1) == b""  # every copy of the other end is closed
        os.close(reading)


@pytest.mark.parametrize(
    "left",
    [
        b"",
        b"garbage",
        b"\x93\xa8Handover\x01\x91\xa1\xff",
        b"\x93\xa8Handover\x01" + b"\x91" * 4000 + b"\xc0",
        wire.encode(wire.Handover(999, [["6.6.6.6", 6]])),
        wire.encode(wire.Handover(1, [])),
        wire.encode(wire.Handover(1, [["6.6.6.6", 6], ["6.6.6.6", 7]])),
        wire.encode(wire.Handover(1, [{"not": "an address"}])),
    ],
    ids=str,
)
@pytest.mark.parametrize("found_at", ["recall", "rest", "death", "full"])
async def test_what_a_worker_writes_on_the_primarys_end_of_its_belt_is_not_believed(left, found_at):
    async with stage(1, 2) as it:
        ports = await it.connect(2)  # one each
        it.workers[2].take_all()
        it.workers[2].ack()
        reading, writing = os.pipe()
        twin = it.listener._subscribers[1].belt.ours  # the worker has a duplicate of it
        socket.send_fds(twin, [left], [writing])
        os.close(writing)
        await it.settled()
        match found_at:
            case "recall":
                await it.loop.pass_time(RECALL_AFTER * 1.5)
            case "rest":
                it.listener.rest(1, finishes=False)
            case "death":
                it.listener.remove(1)
            case "full":
                it.workers[1].say(wire.Full())
        await it.settled()
        assert [event[:2] for event in it.events if event[0] == "violated"] == [("violated", 1)]
        assert os.read(reading, 1) == b""  # every copy of the other end is closed
        os.close(reading)
        assert it.workers[2].take_all() == [ports[0]]  # the connection that really lay there is not lost


@pytest.mark.parametrize("lie", ["acknowledged", "given back, as something else"])
@pytest.mark.parametrize("found_at", ["rest", "death", "full"])
async def test_what_a_worker_lies_about_and_has_not_read_is_served_by_another(lie, found_at):
    async with stage(1, 2) as it:
        ports = await it.connect(2)  # one each
        it.workers[2].take_all()
        it.workers[2].ack()
        ours, theirs = socket.socketpair()
        if lie == "acknowledged":
            it.workers[1].say(wire.Acked(1))
        else:
            it.workers[1].say(wire.GiveBack(1, ["6.6.6.6", 6]), [theirs.fileno()])
        theirs.close()
        await it.settled()
        match found_at:
            case "rest":
                it.listener.rest(1, finishes=False)
            case "death":
                it.listener.remove(1)
            case "full":
                it.workers[1].say(wire.Full())
        await it.settled()
        assert [event[:2] for event in it.events if event[0] == "violated"] == [("violated", 1)]
        assert ports[0] in it.workers[2].take_all()
        for sock in it.workers[2].taken:
            sock.close()
        it.workers[2].taken.clear()
        with ours:
            assert ours.recv(1) == b""


async def test_a_belt_that_is_shut_down_is_a_violation():
    async with stage(1, 2) as it:
        it.workers[1].end.shutdown(socket.SHUT_RDWR)
        await it.settled()
        assert [event[:2] for event in it.events if event[0] == "violated"] == [("violated", 1)]
        ports = await it.connect(2)
        assert it.workers[2].take_all() == ports


async def test_the_primarys_end_shut_down_by_a_worker_is_a_violation_and_nothing_is_lost():
    async with stage(1, 2) as it:
        it.listener._subscribers[1].belt.ours.shutdown(socket.SHUT_WR)
        ports = await it.connect(2)
        assert [event[:2] for event in it.events if event[0] == "violated"] == [("violated", 1)]
        assert sorted(it.workers[2].take_all()) == sorted(ports)


async def has(it, number, state):
    """Worker `number` got connections 1 and 2: it has acknowledged both, given 1 back, or has left."""
    await it.connect(3)  # two for it, one for the other
    worker = it.workers[number]
    first, socks, peers = worker.take()
    if state == "acknowledged":
        worker.take_all()
        worker.ack()
    elif state == "given back":
        worker.say(wire.Full())
        worker.give_back(first, socks[0], peers[0])
    else:
        it.listener.rest(number, finishes=False)
        worker.ack()
    await it.settled()


@pytest.mark.parametrize("way", ["as given back", "as a hand-over on the primary's end"])
@pytest.mark.parametrize("number", [-1, 0, 1, 5, 2**63])
@pytest.mark.parametrize("state", ["never given", "acknowledged", "given back", "left"])
async def test_what_a_worker_does_not_have_it_cannot_give_back(state, number, way):
    """Otherwise any descriptor could reach other workers as a connection, with any peer address."""
    async with stage(1, 2) as it:
        if state != "never given":
            await has(it, 1, state)
        it.workers[2].take_all()
        it.workers[2].ack()
        await it.settled()
        it.workers[2].take_all()
        queued = it.distribution.queued
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if way == "as given back":
                it.workers[1].say(wire.GiveBack(number, ["6.6.6.6", 6]), [theirs.fileno()])
            else:
                message = wire.encode(wire.Handover(number, [["6.6.6.6", 6]]))
                socket.send_fds(it.listener._subscribers[1].belt.ours, [message], [theirs.fileno()])
            theirs.close()
            await it.settled()
            it.listener.remove(1)
            await it.settled()
            assert [event[:2] for event in it.events if event[0] == "violated"] == [("violated", 1)]
            assert it.distribution.queued <= queued
            assert ours.recv(1) == b""
            assert all(sock.getpeername() != ours.getsockname() for sock in it.workers[2].taken)


async def test_what_it_had_not_given_to_its_program_it_may_give_back_after_it_was_relieved():
    async with stage(1, 2) as it:
        ports = await it.connect(2)
        first, socks, peers = it.workers[1].take()
        it.listener.rest(1, finishes=True)
        it.workers[1].give_back(first, socks[0], peers[0])
        await it.settled()
        assert not any(event[0] == "violated" for event in it.events)
        assert it.workers[2].take_all() == [ports[1], ports[0]]
        assert it.distribution.account(1) == (1, 0)


async def test_a_second_ack_and_one_for_a_recalled_connection_do_not_count():
    async with stage(1, 2) as it:
        await it.connect(2)
        it.workers[1].take_all()
        it.workers[1].ack()
        it.workers[1].ack()
        it.workers[1].ack(0)
        await it.settled()
        assert not any(event[0] == "violated" for event in it.events)
        assert it.outstanding(1) == 0


async def test_what_it_closed_before_it_was_removed_is_not_removed_twice():
    async with stage(1, 2) as it:
        it.workers[1].say(wire.Close())
        it.listener.remove(1)
        await it.settled()
        assert ("closed", 1) not in it.events


async def test_no_more_are_under_way_than_a_worker_has_room_for():
    async with stage() as it:
        worker = await it.worker(1)
        await it.connect(60)
        for _ in range(4):  # its credit grows
            worker.take_all()
            worker.ack()
            await it.settled()
        for room in (3, 1, None):
            worker.take_all()
            worker.serve(16, room)
            worker.ack()
            await it.settled()
            assert it.outstanding(1) == (room or MOST_CREDIT)
