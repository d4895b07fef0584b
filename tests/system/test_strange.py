"""Descriptors from other processes are closed, and nothing waits for that."""

import os
import socket
import struct
import threading

import pytest

from everycore.system import packets, strange
from everycore.system.belt import Belt, make_pair
from everycore.system.strange import MOST_THREADS, close_emptied, close_strange, refuse_more
from tests.kit import open_fds
from tests.kit.processes import until_closers_end

#: A close(2) that waits takes ten minutes.
pytestmark = pytest.mark.limit(10)


class Lingering:
    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._others = []

    def __call__(self):
        ours = socket.create_connection(self._listener.getsockname())
        self._others.append(self._listener.accept()[0])
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(1 << 16))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
        return ours.detach()

    def let_go(self):
        """End every wait for unread data."""
        for other in self._others:
            other.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()
        self.let_go()


@pytest.fixture
def lingering():
    """Makes connections with SO_LINGER and unread data. Returns their descriptors."""
    with Lingering() as makes:
        yield makes


def give(sock, *fds, data=b"x"):
    """Send the descriptors, and keep none of them."""
    socket.send_fds(sock, [data], fds)
    for fd in fds:
        os.close(fd)


def test_a_connection_that_lingers(lingering):
    close_strange((lingering(),))


def test_whatever_it_is_it_is_closed():
    reading, writing = os.pipe()
    close_strange((writing, -1))
    assert os.read(reading, 1) == b""
    os.close(reading)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET], ids=["stream", "packets"])
def test_unread_messages_when_a_socket_is_closed(lingering, kind):
    """The same holds behind a message without bytes, which reads like the end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with theirs:
        if kind == socket.SOCK_SEQPACKET:
            theirs.send(b"")
        give(theirs, lingering(), data=b"" if kind == socket.SOCK_SEQPACKET else b"x")
        give(theirs, lingering())
        close_emptied(ours)


@pytest.mark.parametrize("end", ["ours", "theirs"])
def test_what_lies_on_a_belt_when_it_is_closed(lingering, end):
    belt = Belt(*make_pair())
    with getattr(belt, end).dup() as attacker:
        give(attacker, lingering())
        belt.close()


def test_more_descriptors_than_belong_there(lingering):
    """The kernel closes descriptors without room, while the receiver waits."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        give(theirs, *(lingering() for _ in range(2)), *(os.dup(0) for _ in range(251)))
        received = packets.receive(ours)
    assert received is not None
    assert len(received[1]) == 253
    close_strange(received[1])


def test_what_lies_in_a_socket_that_came(lingering):
    """It may have another reader, so it is not read empty, and a thread waits for it."""
    before = open_fds()
    ours, theirs = socket.socketpair()
    with theirs:
        give(theirs, lingering())
        close_strange((ours.detach(),))
        lingering.let_go()
    assert open_fds() == before


def test_threads_that_wait_are_few(monkeypatch):
    may_end = threading.Event()
    closed: list[int] = []

    def close(fds):
        may_end.wait()
        closed.extend(fds)

    monkeypatch.setattr(strange, "close_all", close)
    aside = strange._Aside()
    for fd in range(3 * MOST_THREADS):
        aside.close(fd)
    assert sum(thread.name == "everycore-close" for thread in threading.enumerate()) == MOST_THREADS
    may_end.set()
    until_closers_end()
    assert sorted(closed) == list(range(3 * MOST_THREADS))


def test_no_process_can_send_any_more_and_what_lies_there_can_be_read():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"last")
        refuse_more(ours)
        with pytest.raises(BrokenPipeError):
            theirs.send(b"more")
        assert ours.recv(10) == b"last"
        assert ours.recv(10) == b""
