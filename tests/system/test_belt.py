"""A belt: what is on it belongs to exactly one of its two readers, whatever happens."""

import errno
import os
import random
import socket
import threading

import pytest

from everycore.system import packets, strange
from everycore.system.belt import MOST_BATCH, Belt, make_pair, tell_primary
from tests.kit import wait_readable
from tests.kit.trouble import descriptor_limit, no_descriptors, ordinary_user


@pytest.fixture
def ends():
    """The primary's `Belt`, and the worker's own end and twin, as two processes would hold them."""
    ours, theirs = make_pair()
    worker, twin = theirs.dup(), ours.dup()
    made = Belt(ours, theirs)
    yield made, worker, twin
    made.close()
    worker.close()
    twin.close()


@pytest.fixture
def pipe():
    """Two descriptors to be sent."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def receive(sock):
    """Receive a message, whose sender is still there."""
    message = packets.receive(sock)
    assert message is not None
    return message


def close(fds):
    for fd in fds:
        os.close(fd)


class TestAMessage:
    def test_arrives_whole_with_its_descriptors_in_order(self, ends):
        primary, worker, _ = ends
        files = [os.memfd_create(f"file-{number}") for number in range(MOST_BATCH)]
        primary.send(b"sixteen", files)
        data, fds, truncated = receive(worker)
        assert (data, truncated) == (b"sixteen", False)
        assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(fd).st_ino for fd in files]
        assert not any(os.get_inheritable(fd) for fd in fds)
        close(files)
        close(fds)

    def test_stays_apart_from_the_next(self, ends, pipe):
        primary, worker, _ = ends
        primary.send(b"one", [pipe[0]])
        primary.send(b"two", [])
        primary.send(b"three", [pipe[0], pipe[0]])
        got = [receive(worker) for _ in range(3)]
        assert [(data, len(fds)) for data, fds, _ in got] == [(b"one", 1), (b"two", 0), (b"three", 2)]
        for _, fds, _ in got:
            close(fds)
        with pytest.raises(BlockingIOError):
            receive(worker)

    def test_with_sixteen_long_names_has_room(self, ends):
        primary, worker, _ = ends
        text = os.urandom(16 * 120)
        primary.send(text, [])
        assert receive(worker) == (text, [], False)

    def test_the_worker_s_words_come_the_other_way(self, ends, pipe):
        primary, worker, _ = ends
        assert tell_primary(worker, b"word")
        assert tell_primary(worker, b"back", [pipe[0]])
        assert primary.receive() == (b"word", [], False)
        data, fds, _ = primary.receive()
        assert (data, len(fds)) == (b"back", 1)
        close(fds)
        with pytest.raises(BlockingIOError):
            primary.receive()

    def test_the_primary_never_waits_though_the_worker_s_end_does(self, ends):
        """O_NONBLOCK belongs to the open file, which both hold: the belt does not rely on it."""
        primary, worker, _ = ends
        worker.setblocking(True)
        with pytest.raises(BlockingIOError):
            primary.read_back()
        with pytest.raises(BlockingIOError):
            primary.receive()


class TestReadingBack:
    def test_what_was_not_read_is_the_primary_s_again(self, ends, pipe):
        primary, worker, _ = ends
        primary.send(b"1", [pipe[0]])
        primary.send(b"2", [pipe[0]])
        data, fds, _ = receive(worker)
        assert data == b"1"
        close(fds)
        data, fds, _ = primary.read_back()
        assert data == b"2"
        close(fds)
        with pytest.raises(BlockingIOError):
            primary.read_back()
        with pytest.raises(BlockingIOError):
            receive(worker)

    def test_also_after_the_worker_is_gone(self, ends, pipe):
        primary, worker, twin = ends
        primary.send(b"1", [pipe[0]])
        worker.close()
        twin.close()
        data, fds, _ = primary.read_back()
        assert data == b"1"
        close(fds)

    @pytest.mark.race
    @pytest.mark.parametrize("batch", [1, 3])
    def test_two_readers_at_once_get_each_message_once(self, ends, batch):
        """Two thousand connections, read by the worker and read back by the primary at the same time."""
        primary, worker, _ = ends
        count = 2000
        files = [os.memfd_create(f"file-{number}") for number in range(batch)]
        inodes = [os.fstat(fd).st_ino for fd in files]
        got: dict[str, list[int]] = {"worker": [], "primary": []}
        over = threading.Event()

        def read(who, take):
            while True:
                finished = over.is_set()
                try:
                    data, fds, truncated = take()
                except BlockingIOError:
                    if finished:
                        return
                    continue
                assert not truncated
                assert [os.fstat(fd).st_ino for fd in fds] == inodes
                close(fds)
                got[who].append(int(data))

        readers = [
            threading.Thread(target=read, args=("worker", lambda: receive(worker))),
            threading.Thread(target=read, args=("primary", primary.read_back)),
        ]
        for reader in readers:
            reader.start()
        for number in range(count):
            while True:
                try:
                    primary.send(b"%d" % number, files)
                except BlockingIOError:
                    continue
                break
        over.set()
        for reader in readers:
            reader.join()
        assert sorted(got["worker"] + got["primary"]) == list(range(count))
        assert got["worker"] == sorted(got["worker"])
        assert got["primary"] == sorted(got["primary"])
        close(files)

    def test_closing_both_ends_closes_what_still_lies_there(self):
        ours, theirs = make_pair()
        primary, worker = Belt(ours, theirs), theirs.dup()
        reading, writing = os.pipe()
        primary.send(b"1", [writing])
        os.close(writing)
        primary.close()
        assert not wait_readable(reading, 0)  # the worker might still read it
        worker.close()
        assert os.read(reading, 1) == b""  # that was the last copy of the writing end
        os.close(reading)


class TestItsEnds:
    def test_the_primary_s_death_does_not_show_while_the_worker_holds_the_twin(self, ends):
        """Otherwise a program that selects on its belt would spin on end-of-file."""
        primary, worker, twin = ends
        primary.close()
        assert not wait_readable(worker.fileno(), 0)
        twin.close()
        assert wait_readable(worker.fileno(), 1)
        assert packets.receive(worker) is None

    def test_the_worker_s_death_does_not_show_while_the_primary_holds_the_duplicate(self, ends):
        primary, worker, twin = ends
        worker.close()
        twin.close()
        assert not wait_readable(primary.ours.fileno(), 0)

    def test_a_full_one_takes_no_more_and_says_so(self, ends):
        primary, worker, _ = ends
        with pytest.raises(BlockingIOError):
            for _ in range(100_000):
                primary.send(b"x" * 1000, [])
        while True:
            try:
                receive(worker)
            except BlockingIOError:
                break
        primary.send(b"again", [])
        assert receive(worker) == (b"again", [], False)

    def test_telling_is_false_without_a_reader(self, ends):
        primary, worker, twin = ends
        while tell_primary(worker, b"x" * 1000):
            pass
        assert not tell_primary(worker, b"x", [0])
        primary.close()
        twin.close()
        assert not tell_primary(worker, b"x")


class TestShortOfDescriptors:
    def test_a_reader_without_any_is_told_that_some_were_lost(self, ends, pipe):
        primary, worker, _ = ends
        primary.send(b"three", [pipe[0]] * 3)
        with no_descriptors():
            data, fds, truncated = receive(worker)
        assert (data, fds, truncated) == (b"three", [], True)

    def test_with_room_for_some_it_gets_those(self, ends, pipe):
        primary, worker, _ = ends
        primary.send(b"three", [pipe[0]] * 3)
        with no_descriptors(spare=2):
            data, fds, truncated = receive(worker)
            close(fds)
        assert (data, len(fds), truncated) == (b"three", 2, True)

    def test_too_many_in_flight_is_an_error_and_sends_nothing(self, ends, pipe):
        """ETOOMANYREFS (unix(7)): the limit counts all sockets of a user."""
        primary, worker, _ = ends
        primary.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sent = 0
        with ordinary_user(), descriptor_limit(200):
            with pytest.raises(OSError) as caught:
                for _ in range(200):
                    primary.send(b"x", [pipe[0]] * MOST_BATCH)
                    sent += 1
            assert caught.value.errno == errno.ETOOMANYREFS
            for _ in range(sent):
                close(receive(worker)[1])
            with pytest.raises(BlockingIOError):
                receive(worker)
            primary.send(b"again", [pipe[0]])
            close(receive(worker)[1])


def test_other_ancillary_data_is_not_taken_for_descriptors(ends):
    """Credentials, timestamps and whatever else the kernel adds are left out."""
    rights = random.Random(1).randbytes(12)
    assert strange.descriptors_in([(socket.SOL_SOCKET, 2, rights), (socket.IPPROTO_IP, 1, rights)]) == []
