"""What a worker counts as a connection, and until when. The files are real; this file plays the board."""

import asyncio
import os
import socket
import threading
from collections import Counter
from typing import Any

import pytest

from everycore.system import descriptors
from everycore.worker.connections import files
from everycore.worker.connections.counted import CountedSocket
from everycore.worker.connections.ledger import Ledger
from everycore.worker.connections.limits import ConnectionLimit
from tests.kit import turn


class Board(Counter[str]):
    """Counts what it is told."""

    def opened(self):
        self["open"] += 1

    def closed(self):
        self["open"] -= 1


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def ledger(board):
    return Ledger(board)


@pytest.fixture
def limit():
    return ConnectionLimit()


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def counted(ledger, limit):
    """A connection of a server, as a transport of asyncio holds it, and its peer."""
    near, far = socket.socketpair()
    return CountedSocket(near.family, near.type, 0, near.detach(), ledger, limit), far


class Connection:
    """A connection whose end only the test sees."""

    def __init__(self):
        self.ends: list[str] = []

    def end(self, *, abort):
        self.ends.append("abort" if abort else "close")


class TestEntries:
    def test_the_ledger_alone_tells_the_board_and_the_limit(self, ledger, board, limit):
        entry = ledger.opened(limit, Connection())
        assert (ledger.open, board["open"], limit.open) == (1, 1, 1)
        entry.closed()
        assert (ledger.open, board["open"], limit.open) == (0, 0, 0)

    def test_an_end_that_is_detected_twice_is_one_end(self, ledger, board, limit):
        first, second = ledger.opened(limit, Connection()), ledger.opened(limit, Connection())
        first.closed()
        first.closed()
        assert (ledger.open, board["open"], limit.open) == (1, 1, 1)
        assert not first.is_open
        assert second.is_open

    def test_each_server_has_its_own(self, ledger, limit):
        other = ConnectionLimit()
        mine, its = Connection(), Connection()
        ledger.opened(limit, mine)
        ledger.opened(other, its)
        assert ledger.connections_of(limit) == [mine]
        assert ledger.connections_of(other) == [its]

    def test_waiters_for_the_end_of_one_or_of_all_are_told(self, ledger, limit):
        told: list[str] = []
        first, second = ledger.opened(limit, Connection()), ledger.opened(limit, Connection())
        ledger.when_none(lambda: told.append("none"))
        ledger.when_fewer(lambda: told.append("fewer"))
        first.closed()
        assert told == ["fewer"]
        second.closed()
        assert told == ["fewer", "none"]
        ledger.when_none(lambda: told.append("at once"))
        assert told == ["fewer", "none", "at once"]

    def test_all_are_cut_when_the_grace_is_over(self, ledger, limit, pair):
        one = Connection()
        ledger.opened(limit, one)
        near, far = pair
        ledger.watch_file(near.fileno())
        ledger.abort()
        assert one.ends == ["abort"]
        assert far.recv(1) == b""


class TestLimits:
    def test_watchers_hear_of_the_last_one_and_of_room(self, ledger, limit):
        heard: list[str] = []
        limit.watch(on_full=lambda: heard.append("full"), on_room=lambda: heard.append("room"))
        limit.set(2, None)
        first = ledger.opened(limit, Connection())
        assert heard == ["room"]  # of the new limit
        second = ledger.opened(limit, Connection())
        assert heard == ["room", "full"]
        assert limit.is_full
        ledger.opened(limit, Connection())  # it was on its way
        first.closed()
        assert heard == ["room", "full"]
        second.closed()
        assert heard == ["room", "full", "room"]

    def test_a_limit_that_is_lifted_is_room(self, ledger, limit):
        heard: list[str] = []
        limit.watch(on_full=lambda: heard.append("full"), on_room=lambda: heard.append("room"))
        ledger.opened(limit, Connection())
        limit.set(1, None)
        limit.set(None, None)
        assert heard == ["full", "room"]


class TestCountedSocket:
    def test_its_end_is_seen(self, ledger, limit):
        sock, far = counted(ledger, limit)
        assert ledger.open == 1
        sock.close()
        assert (ledger.open, limit.open) == (0, 0)
        far.close()

    def test_a_detached_number_is_a_connection_still(self, ledger, board, limit):
        sock, far = counted(ledger, limit)
        number = sock.detach()
        assert (ledger.open, limit.open, board["open"]) == (1, 0, 0)
        os.close(number)
        assert ledger.open == 0
        far.close()

    async def test_a_copy_that_a_program_takes_of_a_transport_outlives_it(self, ledger, limit):
        sock, far = counted(ledger, limit)
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, sock)
        copy = transport.get_extra_info("socket").dup()
        assert type(copy) is socket.socket
        assert ledger.open == 1
        transport.abort()
        await turn(2)
        assert sock.fileno() < 0
        assert ledger.open == 1
        copy.send(b"still here")
        assert far.recv(100) == b"still here"
        copy.close()
        assert ledger.open == 0
        far.close()

    def test_it_shows_what_a_socket_shows(self, ledger, limit):
        sock, far = counted(ledger, limit)
        assert (sock.family, sock.type, sock.proto) == (far.family, far.type, far.proto)
        sock.close()
        far.close()


def keep(near: socket.socket) -> tuple[Any, Any]:
    return near, near.close


def detach(near: socket.socket) -> tuple[Any, Any]:
    number = near.detach()
    return number, lambda: os.close(number)


def copy_number(near: socket.socket) -> tuple[Any, Any]:
    number = os.dup(near.fileno())
    near.close()
    return number, lambda: os.close(number)


def copy_socket(near: socket.socket) -> tuple[Any, Any]:
    copy = near.dup()
    near.close()
    return copy, copy.close


def make_file(near: socket.socket) -> tuple[Any, Any]:
    file = near.makefile("rb")
    near.close()
    return file, file.close


def wrap_again(near: socket.socket) -> tuple[Any, Any]:
    sock = socket.socket(fileno=near.detach())
    return sock, sock.close


def move(near: socket.socket) -> tuple[Any, Any]:
    """Its descriptor comes to stand for another file."""
    number = os.dup(near.fileno())
    with open(os.devnull) as other:
        os.dup2(other.fileno(), near.fileno())

    def close():
        os.close(number)
        near.close()

    return None, close


WAYS = [keep, detach, copy_number, copy_socket, make_file, wrap_again, move]


class TestFiles:
    @pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
    def test_a_connection_is_open_as_long_as_its_file_is(self, ledger, pair, way):
        near, _ = pair
        ledger.watch_file(near.fileno())
        _kept, close = way(near)
        assert ledger.open == 1
        close()
        assert ledger.open == 0

    def test_one_that_its_program_drops_is_closed(self, ledger):
        near, far = socket.socketpair()
        ledger.watch_file(near.fileno())
        dropped = [near]
        del near
        with pytest.warns(ResourceWarning):
            dropped.clear()
        assert ledger.open == 0
        far.close()

    def test_a_number_that_is_used_again_is_another_connection(self, ledger, pair):
        near, far = pair
        number = near.fileno()
        ledger.watch_file(number)
        near.close()
        os.dup2(far.fileno(), number)
        try:
            assert ledger.open == 0
        finally:
            os.close(number)

    def test_one_that_is_watched_twice_is_one(self, ledger, pair):
        ledger.watch_file(pair[0].fileno())
        ledger.watch_file(pair[0].fileno())
        copy = pair[0].dup()
        ledger.watch_file(copy.fileno())
        assert ledger.open == 1
        copy.close()

    def test_files_and_closed_descriptors_do_not_count_as_connections(self, ledger):
        with open(os.devnull) as file:
            ledger.watch_file(file.fileno())
        ledger.watch_file(-1)
        assert ledger.open == 0

    @pytest.mark.parametrize("way", [keep, detach, copy_number], ids=lambda way: way.__name__)
    def test_it_is_cut_whatever_it_has_become(self, ledger, pair, way):
        near, far = pair
        ledger.watch_file(near.fileno())
        _kept, close = way(near)
        ledger.abort()
        assert far.recv(1) == b""
        close()

    async def test_the_transport_on_it_is_aborted(self, ledger, pair):
        near, _ = pair
        lost: list[Any] = []

        class Lost(asyncio.Protocol):
            def connection_lost(self, exc):
                lost.append(exc)

        near.setblocking(False)
        transport, _protocol = await asyncio.get_running_loop().connect_accepted_socket(Lost, near)
        ledger.watch_file(near.fileno())  # as `accept` does
        ledger.watch_file(near.fileno(), transport)
        assert ledger.open == 1
        ledger.abort()
        await turn(2)
        assert lost == [None]
        assert ledger.open == 0

    @pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
    def test_those_that_a_listener_accepts_in_c_are_found(self, ledger, tmp_path, family):
        unix = family == socket.AF_UNIX
        with socket.socket(family) as listener, socket.socket(family) as client:
            listener.bind(str(tmp_path / "socket") if unix else ("0.0.0.0", 0))
            listener.listen()
            ledger.watch_listener(listener.fileno())
            assert ledger.open == 0
            name = listener.getsockname()
            client.connect(name if unix else ("127.0.0.1", name[1]))
            assert ledger.open == 0  # the client does not count as a connection of the listener
            conn, _ = listener.accept()
            assert ledger.open == 1
            number = conn.detach()
            assert ledger.open == 1
            ledger.abort()
            assert client.recv(1) == b""
            os.close(number)
            assert ledger.open == 0

    def test_so_are_those_of_a_listener_that_nobody_has_told_of(self, ledger):
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.connect(listener.getsockname())
            conn, _ = listener.accept()
            assert ledger.open == 0
            ledger.seek_listeners(lambda: [listener.fileno()])
            assert ledger.open == 0  # its connections are counted where they are accepted
            ledger.seek_listeners(list)
            assert ledger.open == 1
            conn.close()
            assert ledger.open == 0

    def test_those_that_have_ended_are_forgotten(self, ledger, monkeypatch):
        scans: list[int] = []
        numbers = descriptors.numbers_of_sockets

        def counted_scan():
            scans.append(1)
            return numbers()

        monkeypatch.setattr(files, "numbers_of_sockets", counted_scan)
        kept = [socket.socketpair() for _ in range(5)]
        for near, _ in kept:
            ledger.watch_file(near.fileno())
        rounds = 40 * files._FEW
        for _ in range(rounds):
            near, far = socket.socketpair()
            ledger.watch_file(near.fileno())
            near.close()
            far.close()
        assert len(ledger._files._files) <= 2 * files._FEW
        assert 0 < len(scans) <= rounds / (files._FEW - len(kept)) + 1
        assert ledger.open == len(kept)
        for near, far in kept:
            near.close()
            far.close()

    def test_threads_may_accept_while_it_is_counted(self, ledger):
        def accept():
            for _ in range(300):
                near, far = socket.socketpair()
                ledger.watch_file(near.fileno())
                near.close()
                far.close()

        threads = [threading.Thread(target=accept) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert ledger.open >= 0
        for thread in threads:
            thread.join()
        assert ledger.open == 0


def test_a_server_hears_whenever_its_last_connection_has_ended():
    heard: list[int] = []
    server = ConnectionLimit(on_none=lambda: heard.append(server.open))
    for change in (server.opened, server.opened, server.closed):
        change()
    assert heard == []
    for change in (server.closed, server.opened, server.closed):
        change()
    assert heard == [0, 0]
