"""The worker's end of the link: which reply belongs to which of two nested requests."""

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from everycore.core import wire
from everycore.worker.listening.link import NUMBER, Link


class Primary:
    """The other end: the requests that came, and the replies that the test sends."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def hear(self) -> int:
        """The number of the next request."""
        return NUMBER.unpack_from(self._sock.recv(1000))[0]

    def reply(self, number: int, value: bytes) -> None:
        self._sock.send(NUMBER.pack(number) + wire.encode(wire.Option(value)))


@pytest.fixture
def ends() -> Iterator[tuple[Link, Primary]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Link(ours), Primary(theirs)


@pytest.fixture
def on_signal() -> Iterator[None]:
    """SIGUSR1 is as before when the test is over."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def ask(link: Link) -> bytes:
    reply, fds = link.request(wire.GetOption(1, 2, 3, 4), timeout=10)
    assert fds == []
    return reply.value


class InterruptedForGoodError(Exception):
    """An error that a signal handler raises."""


@pytest.mark.usefixtures("on_signal")
def test_a_signal_handler_asks_in_the_middle_of_a_request(ends):
    link, primary = ends
    inner: list[bytes] = []
    signal.signal(signal.SIGUSR1, lambda *_: inner.append(ask(link)))

    def answer() -> None:
        first = primary.hear()
        os.kill(os.getpid(), signal.SIGUSR1)
        second = primary.hear()
        primary.reply(first, b"outer")
        primary.reply(second, b"inner")

    thread = threading.Thread(target=answer)
    thread.start()
    assert (ask(link), inner) == (b"outer", [b"inner"])
    thread.join()


@pytest.mark.usefixtures("on_signal")
def test_a_request_that_was_interrupted_for_good_blocks_no_other(ends):
    link, primary = ends

    def give_up(*_: object) -> None:
        raise InterruptedForGoodError

    signal.signal(signal.SIGUSR1, give_up)
    heard: list[int] = []

    def interrupt() -> None:
        heard.append(primary.hear())
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(InterruptedForGoodError):
        ask(link)
    thread.join()
    primary.reply(heard[0], b"too late")
    primary.reply(heard[0] + 1, b"the next")
    assert ask(link) == b"the next"


def test_a_lock_that_was_not_let_go_does_not_stop_its_own_thread(ends):
    """An exception may come between taking the lock and the block that releases it."""
    link, primary = ends
    link._lock.acquire()
    primary.reply(1, b"answer")
    assert ask(link) == b"answer"
