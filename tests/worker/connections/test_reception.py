"""What a worker takes off its belt, when, and what it reports. This file plays the primary.

Time stands still unless a handler takes some: the test decides what a connection costs.
"""

import asyncio
import contextlib
import os
import socket
from typing import Any

import pytest

from everycore.core import wire
from everycore.system.belt import Belt, make_pair, tell_primary_reliably
from everycore.worker.connections.ledger import Ledger
from everycore.worker.connections.limits import ConnectionLimit
from everycore.worker.connections.reception import LOOK_AGAIN, BeltReader, Receptions
from everycore.worker.listening.clustersocket import ClusterSocket
from tests.kit import VirtualClock, turn

PEER = ["127.0.0.1", 50_000]


class Program:
    """Keeps its loop busy for `cost` seconds with each connection that it is given."""

    turns = 3

    def __init__(self):
        self.cost = 0.0
        self.given: list[Any] = []

    def give(self, fd, peer):
        os.close(fd)
        self.given.append(peer)
        # As in a real program: not when it is given the connection, but when it has read the request.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, clock.advance, self.cost)

    def advance(self):
        pass


clock = VirtualClock()


@contextlib.asynccontextmanager
async def belt_of_a_worker(monkeypatch, descriptor_limit=1_000_000):
    """The primary's end of a belt, the reader at the worker's end, and the program."""
    monkeypatch.setattr("everycore.worker.connections.reception.time.monotonic", lambda: clock.now)
    monkeypatch.setattr("everycore.system.preemption._switches", lambda: 0)
    ours, theirs = make_pair()
    belt = Belt(ours, theirs)
    board: Any = None  # nothing is counted here
    granted = wire.Granted(1, 1, PEER, socket.AF_INET, socket.SOCK_STREAM, 0)
    sock = ClusterSocket.granted(
        granted,
        [os.dup(theirs.fileno()), os.dup(ours.fileno())],
        Ledger(board).watch_file,
        lambda *_: None,
        started=True,
    )
    loop = asyncio.get_running_loop()
    program = Program()
    reader = BeltReader(
        loop, sock, program, ConnectionLimit(), receptions=Receptions(), descriptor_limit=descriptor_limit
    )
    reader.begin()
    assert words(belt) == [wire.Serve(16)]
    try:
        yield belt, reader, program
    finally:
        sock.close()
        belt.close()


def put(belt, first, count):
    """One message with `count` connections."""
    pairs = [socket.socketpair() for _ in range(count)]
    belt.send(wire.encode(wire.Handover(first, [PEER] * count)), [far.fileno() for _, far in pairs])
    for pair in pairs:
        for end in pair:
            end.close()


def words(belt):
    """The messages that the worker has sent."""
    heard: list[Any] = []
    while True:
        try:
            data, fds, _ = belt.receive()
        except BlockingIOError:
            return heard
        assert not fds
        heard.append(wire.decode_upstream(data))


async def test_none_is_read_while_the_last_one_alone_in_its_message_is_not_acknowledged(monkeypatch):
    async with belt_of_a_worker(monkeypatch) as (belt, reader, program):
        put(belt, 1, 1)
        put(belt, 2, 1)
        reader.on_readable()
        for _ in range(program.turns):
            assert words(belt) == []
            reader.on_readable()
            assert len(program.given) == 1
            await turn()
        assert [word.last for word in words(belt)] == [1]
        reader.on_readable()
        assert len(program.given) == 2


async def test_one_that_runs_short_of_descriptors_says_so_to_the_primary_and_in_the_log(monkeypatch, caplog):
    async with belt_of_a_worker(monkeypatch, descriptor_limit=1) as (belt, reader, program):
        put(belt, 1, 1)
        reader.on_readable()
        assert wire.Full() in words(belt)
        assert len(program.given) == 1  # what has come is served
        await turn(program.turns + 1)
        put(belt, 2, 1)
        reader.on_readable()
        assert caplog.text.count("file descriptors run short (the limit is ") == 1


async def test_what_was_not_read_can_be_taken_back(monkeypatch):
    async with belt_of_a_worker(monkeypatch) as (belt, reader, _):
        put(belt, 1, 1)
        put(belt, 2, 1)
        reader.on_readable()
        reader.on_readable()
        message = belt.read_back()
        assert message is not None
        data, fds, _ = message
        assert wire.decode_handover(data).first == 2
        for fd in fds:
            os.close(fd)
        with pytest.raises(BlockingIOError):
            belt.read_back()


async def test_batches_are_read_on_a_message_a_turn(monkeypatch):
    async with belt_of_a_worker(monkeypatch) as (belt, reader, program):
        put(belt, 1, 3)
        put(belt, 4, 2)
        reader.on_readable()
        assert len(program.given) == 3
        reader.on_readable()
        assert len(program.given) == 5
        await turn(program.turns)
        assert [word.last for word in words(belt)] == [3, 5]


def acks(belt):
    """What the worker has acknowledged, and the cost that it reported, to a microsecond or two."""
    return [(word.last, pytest.approx(word.cost, abs=2)) for word in words(belt)]


@pytest.mark.parametrize(("cost", "said"), [(0.0, 0), (0.0002, 200), (0.0025, 2500)])
async def test_an_ack_says_for_how_long_the_loop_was_busy(monkeypatch, cost, said):
    async with belt_of_a_worker(monkeypatch) as (belt, reader, program):
        program.cost = cost
        put(belt, 1, 1)
        reader.on_readable()
        await turn(program.turns)
        assert acks(belt) == [(1, said)]


async def test_those_taken_meanwhile_share_the_time(monkeypatch):
    async with belt_of_a_worker(monkeypatch) as (belt, reader, program):
        program.cost = 0.0003
        put(belt, 1, 3)
        put(belt, 4, 3)
        reader.on_readable()
        reader.on_readable()
        await turn(program.turns)
        assert acks(belt) == [(3, 300), (6, 600)]


# The belt is full, as happens while the primary is stopped


def fill(sock):
    """Fill this socket's belt until it takes no more."""
    while sock.tell_primary(wire.Full()):
        pass


@pytest.mark.parametrize("policy", ["round_robin", "shared"])
def test_the_end_of_a_listener_is_said_when_the_belt_has_room_again(monkeypatch, policy):
    """Otherwise the primary would go on putting connections on a belt that has no reader."""
    ours, theirs = make_pair()
    belt = Belt(ours, theirs)
    fds = [os.dup(theirs.fileno()), os.dup(ours.fileno())]
    if policy == "shared":
        fds += [socket.socket().detach(), os.eventfd(0)]
    granted = wire.Granted(1, 1, PEER, socket.AF_INET, socket.SOCK_STREAM, 0)
    board: Any = None
    sock = ClusterSocket.granted(granted, fds, Ledger(board).watch_file, lambda *_: None, started=True)
    fill(sock)
    heard: list[Any] = []
    monkeypatch.setattr("everycore.system.belt.time.sleep", lambda _: heard.extend(words(belt)))
    sock.close()
    assert heard
    assert words(belt) == [wire.Close()]
    belt.close()


async def test_an_acknowledgement_is_said_when_the_belt_has_room_again(monkeypatch):
    """Otherwise the primary would count this worker as late for good."""
    async with belt_of_a_worker(monkeypatch) as (belt, reader, program):
        fill(reader._sock)
        put(belt, 1, 1)
        reader.on_readable()
        await turn(program.turns)
        assert set(map(type, words(belt))) == {wire.Full}
        clock.advance(LOOK_AGAIN)
        await turn(4)
        assert [word.last for word in words(belt)] == [1]
        clock.advance(LOOK_AGAIN)
        await turn(4)
        assert words(belt) == []


def test_a_plain_accept_acknowledges_when_the_belt_has_room_again(monkeypatch):
    ours, theirs = make_pair()
    belt = Belt(ours, theirs)
    granted = wire.Granted(1, 1, PEER, socket.AF_INET, socket.SOCK_STREAM, 0)
    fds = [os.dup(theirs.fileno()), os.dup(ours.fileno())]
    sock = ClusterSocket.granted(granted, fds, lambda _: None, lambda *_: None, started=True)
    fill(sock)
    put(belt, 1, 1)
    monkeypatch.setattr("everycore.system.belt.time.sleep", lambda _: words(belt))
    conn, _ = sock.accept()
    conn.close()
    assert words(belt) == [wire.Acked(1)]
    sock.close()
    belt.close()


def test_what_no_patience_helps_is_not_waited_for(monkeypatch):
    def sleep(seconds):
        raise AssertionError("it will never be heard")

    monkeypatch.setattr("everycore.system.belt.time.sleep", sleep)
    ours, theirs = make_pair()
    ours.close()
    assert not tell_primary_reliably(theirs, b"word")
    theirs.close()
    assert not tell_primary_reliably(theirs, b"word")
