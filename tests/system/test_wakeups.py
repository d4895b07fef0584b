"""Taking turns at a listener, and the baton: with processes that really wait in epoll."""

import errno
import os
import select
import signal
import socket

import pytest

from everycore.system import wakeups
from everycore.system.wakeups import Baton, ExclusiveRegistration, is_readable, pass_baton, take_baton
from tests.kit import scaled, wait_readable
from tests.kit.processes import look

#: Four processes that wait for one listener of the test; each prints its number when it has accepted.
WAITERS = """
import os, select, socket, sys
from everycore.system.wakeups import ExclusiveRegistration, take_baton

link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
_, [listener, baton], _, _ = socket.recv_fds(link, 1, 2)
listener = socket.socket(fileno=listener)
listener.setblocking(False)

def wait_for_ever(number):
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    epoll.register(baton, select.EPOLLIN)
    turn = ExclusiveRegistration(epoll.fileno(), listener.fileno())
    lot = ExclusiveRegistration(epoll.fileno(), baton)
    while True:
        for fd, _ in epoll.poll():
            if fd == baton:
                if take_baton(baton):
                    os.write(1, b"baton %d\\n" % number)
                    lot.rearm()
                continue
            try:
                conn, _ = listener.accept()
            except BlockingIOError:
                os.write(1, b"in vain %d\\n" % number)
                continue
            conn.close()
            turn.rearm()
            os.write(1, b"took %d\\n" % number)

for number in range(4):
    if (pid := os.fork()) == 0:
        wait_for_ever(number)
    os.write(1, b"waiter %d\\n" % pid)
    while open(f"/proc/{pid}/stat").read().rsplit(")")[1].split()[0] != "S":
        os.sched_yield()
os.write(1, b"all wait\\n")
os.waitpid(pid, 0)
"""


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


@pytest.fixture
def baton():
    made = Baton()
    yield made
    made.close()


@pytest.fixture
def epoll():
    with select.epoll() as made:
        yield made


class TestFourWaiters:
    @pytest.fixture
    def waiters(self, start_program, listener, baton, tmp_path):
        with socket.socket(socket.AF_UNIX) as meeting:
            meeting.bind(str(tmp_path / "meeting"))
            meeting.listen()
            program = start_program(WAITERS, str(tmp_path / "meeting"))
            link, _ = meeting.accept()
            with link:
                socket.send_fds(link, [b"x"], [listener.fileno(), baton.fd])
        pids = [int(program.expect(r"waiter (\d+)")[1]) for _ in range(4)]
        program.expect("all wait")
        return program, pids

    @staticmethod
    def until_all_wait(pids):
        """A sleeping process waits in epoll: these do nothing else that sleeps."""
        while any((seen := look(pid)) is None or seen.state != "S" for pid in pids):
            os.sched_yield()

    @pytest.mark.slow
    def test_idle_ones_take_turns(self, waiters, listener):
        program, pids = waiters
        order = []
        for _ in range(20):
            self.until_all_wait(pids)
            with socket.create_connection(listener.getsockname()):
                order.append(int(program.expect(r"took (\d)")[1]))
        assert order == [0, 1, 2, 3] * 5
        assert "in vain" not in program.stdout  # one is woken for one connection, and no more

    @pytest.mark.slow
    def test_the_baton_goes_round(self, waiters, baton):
        program, pids = waiters
        order = []
        for _ in range(8):
            self.until_all_wait(pids)
            baton.pass_on()
            order.append(int(program.expect(r"baton (\d)")[1]))
        assert order == [0, 1, 2, 3] * 2

    @pytest.mark.slow
    def test_a_worker_that_does_not_wait_is_skipped(self, waiters, listener):
        """A stopped worker swallows at most the one wake-up for which it is still in the queue."""
        program, pids = waiters
        self.until_all_wait(pids)
        os.kill(pids[0], signal.SIGSTOP)
        while (seen := look(pids[0])) is None or seen.state != "T":
            os.sched_yield()
        clients = [socket.create_connection(listener.getsockname())]
        clients.append(socket.create_connection(listener.getsockname()))
        taken = [int(program.expect(r"took (\d)")[1]) for _ in clients]
        assert 0 not in taken
        for client in clients:
            client.close()
        os.kill(pids[0], signal.SIGCONT)


class TestTurn:
    def test_it_waits_as_before_and_exclusively(self, epoll, listener):
        epoll.register(listener.fileno(), select.EPOLLIN)
        turn = ExclusiveRegistration(epoll.fileno(), listener.fileno())
        with socket.create_connection(listener.getsockname()):
            assert [fd for fd, _ in epoll.poll(scaled(5))] == [listener.fileno()]
        with pytest.raises(OSError, match="Invalid") as caught:  # EPOLLEXCLUSIVE cannot be modified
            epoll.modify(listener.fileno(), select.EPOLLIN)
        assert caught.value.errno == errno.EINVAL
        turn.close()

    def test_out_of_the_row_it_is_not_woken_and_back_in_it_sees_what_came(self, epoll, listener):
        epoll.register(listener.fileno(), select.EPOLLIN)
        turn = ExclusiveRegistration(epoll.fileno(), listener.fileno())
        turn.disarm()
        turn.disarm()
        assert not turn.is_armed
        with socket.create_connection(listener.getsockname()):
            assert wait_readable(listener.fileno(), 5)
            assert epoll.poll(0) == []
            turn.rearm()
            assert turn.is_armed
            assert epoll.poll(0) == [(listener.fileno(), select.EPOLLIN)]
            turn.rearm()
            assert epoll.poll(0) == [(listener.fileno(), select.EPOLLIN)]
        turn.close()

    def test_the_loop_may_have_removed_it_meanwhile(self, epoll, listener):
        epoll.register(listener.fileno(), select.EPOLLIN)
        turn = ExclusiveRegistration(epoll.fileno(), listener.fileno())
        epoll.unregister(listener.fileno())
        turn.disarm()
        turn.rearm()
        epoll.unregister(listener.fileno())
        turn.rearm()
        turn.close()
        epoll.unregister(listener.fileno())

    def test_what_the_loop_never_added_is_an_error_that_keeps_nothing_open(self, epoll, listener):
        with pytest.raises(FileNotFoundError):
            ExclusiveRegistration(epoll.fileno(), listener.fileno())

    def test_closing_it_leaves_the_registration_to_the_loop(self, epoll, listener):
        epoll.register(listener.fileno(), select.EPOLLIN)
        ExclusiveRegistration(epoll.fileno(), listener.fileno()).close()
        with socket.create_connection(listener.getsockname()):
            assert epoll.poll(scaled(5))
        epoll.unregister(listener.fileno())


class TestBaton:
    def test_it_is_taken_once(self, baton):
        assert not take_baton(baton.fd)
        baton.pass_on()
        assert take_baton(baton.fd)
        assert not take_baton(baton.fd)

    def test_there_is_never_more_than_one(self, baton):
        for _ in range(5):
            baton.pass_on()
        assert take_baton(baton.fd)
        assert not take_baton(baton.fd)

    def test_it_is_closed_to_programs_that_a_worker_starts(self, baton):
        assert not os.get_inheritable(baton.fd)

    def test_each_worker_has_an_open_file_of_its_own(self, baton):
        one, other = baton.open(), baton.open()
        try:
            os.set_blocking(one, True)
            assert not os.get_blocking(other)
            assert not os.get_blocking(baton.fd)
            assert not take_baton(other)
            baton.pass_on()
            assert take_baton(other)
            pass_baton(other)
            assert take_baton(one)
        finally:
            os.close(one)
            os.close(other)

    def test_passing_it_on_never_waits_whatever_a_worker_has_put_in(self, baton):
        theirs = baton.open()
        try:
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(theirs, bytes(4096))
            baton.pass_on()
            baton.pass_on()
            assert is_readable(baton.fd)
        finally:
            os.close(theirs)

    def test_without_proc_all_have_the_same_one(self, monkeypatch):
        def no_proc(_: int) -> int:
            raise FileNotFoundError

        monkeypatch.setattr(wakeups, "_opened_anew", no_proc)
        baton = Baton()
        theirs = baton.open()
        baton.pass_on()
        baton.pass_on()
        assert take_baton(theirs)
        assert not take_baton(baton.fd)
        os.close(theirs)
        baton.close()


class TestIsReadable:
    def test_a_listener_with_a_connection_in_its_accept_queue(self, listener):
        assert not is_readable(listener.fileno())
        with socket.create_connection(listener.getsockname()):
            assert wait_readable(listener.fileno(), 5)
            assert is_readable(listener.fileno())
            listener.accept()[0].close()
        assert not is_readable(listener.fileno())
