"""accept(2) on a file that others have too: it never waits, whatever mode they set."""

import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from everycore.foreign.socket_internals import accept
from everycore.system import watched_accept
from everycore.system.given import bind_given
from everycore.system.listeners import StreamListener
from everycore.system.watched_accept import Watch


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.close()


def test_a_connection_is_accepted(listener, watch):
    with socket.create_connection(listener.getsockname()) as client:
        fd, peer = watch.accept(listener)
        os.close(fd)
        assert peer == client.getsockname()


def test_an_empty_queue_does_not_block_even_if_the_file_was_made_blocking(listener, watch):
    with listener.dup() as copy:
        copy.setblocking(True)
        with pytest.raises(BlockingIOError) as raised:
            watch.accept(listener)
    assert raised.value.errno == errno.EAGAIN


def test_nor_is_it_if_another_process_takes_the_one_that_was_seen(listener, watch, monkeypatch):
    """The mode is set again after the check."""
    with listener.dup() as copy:
        copy.setblocking(True)
        monkeypatch.setattr(watched_accept, "is_readable", lambda _: True)
        with pytest.raises(BlockingIOError):
            watch.accept(listener)


def test_a_call_that_waits_all_the_same_is_interrupted(listener, watch, monkeypatch):
    """Another process sets the mode in the moment right before the call."""

    def made_blocking(sock: socket.socket) -> tuple[int, object]:
        os.set_blocking(sock.fileno(), True)
        return accept(sock)

    monkeypatch.setattr(watched_accept, "is_readable", lambda _: True)
    monkeypatch.setattr(watched_accept, "accept", made_blocking)
    with pytest.raises(InterruptedError):
        watch.accept(listener)


def test_the_tick_disturbs_nothing_else(listener, watch):
    with pytest.raises(BlockingIOError):
        watch.accept(listener)
    signal.raise_signal(signal.SIGALRM)


def test_the_timer_ends_with_the_last_listener(listener):
    first, second = Watch(), Watch()
    for watch in (first, second):
        with pytest.raises(BlockingIOError):
            watch.accept(listener)
    first.close()
    first.close()
    assert signal.getitimer(signal.ITIMER_REAL)[1] == watched_accept.TICK
    second.close()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_a_program_that_uses_the_timer_itself_keeps_it(listener, watch):
    def handler(*_: object) -> None:
        pass

    signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(BlockingIOError):
            watch.accept(listener)
        assert signal.getsignal(signal.SIGALRM) is handler
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_in_another_thread_it_accepts_without_a_timer(listener):
    def accept_one() -> None:
        watch = Watch()
        with socket.create_connection(listener.getsockname()):
            found.append(watch.accept(listener)[0])
        watch.close()

    found: list[int] = []
    thread = threading.Thread(target=accept_one)
    thread.start()
    thread.join()
    os.close(found[0])


def test_which_listeners_others_have_too(listener):
    own = StreamListener.bound(("127.0.0.1", 0), family=socket.AF_INET, v6only=False, backlog=1)
    adopted = StreamListener.adopted(listener.fileno(), backlog=1, internal=())
    given = bind_given(socket.socket(), ("127.0.0.1", 0))
    assert own.watch is None
    assert adopted.watch is not None
    assert given.watch is not None
    for made in (own, adopted, given):
        made.close()
