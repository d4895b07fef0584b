"""Adoption, messages that name their sender, and the fork of a worker: what the kernel does."""

import os
import signal
import socket

import pytest

from everycore.system import molding


@pytest.fixture
def adopting():
    before = molding.adopt_orphans(on=True)
    yield
    molding.adopt_orphans(on=before)


def status_of(kind: int, number: int) -> int:
    result = os.waitid(kind, number, os.WEXITED)
    assert result is not None
    return result.si_status


def test_whether_orphans_were_adopted_before_is_told():
    before = molding.adopt_orphans(on=True)
    try:
        assert molding.adopt_orphans(on=True)
        assert molding.adopt_orphans(on=False)
        assert not molding.adopt_orphans(on=False)
    finally:
        molding.adopt_orphans(on=before)


@pytest.mark.usefixtures("adopting")
def test_a_worker_speaks_before_and_after_it_is_the_child_of_the_primary_and_the_kernel_names_it():
    ours, theirs = molding.make_signed_pair()
    with ours, theirs:

        def say_there() -> None:
            molding.send_with(theirs, b"%d" % os.getppid(), ())
            if os.getppid() == me:
                os._exit(7)

        me = os.getpid()
        assert molding.fork_for(me, say_there) == ""
        words = [molding.receive_signed(ours, 100) for _ in range(2)]
    parents, pids = zip(*((int(word[0]), word[2]) for word in words if word is not None), strict=True)
    assert parents[1] == me != parents[0]
    assert words[1] is not None
    _, fds, pid, uid = words[1]
    assert (fds, uid, pids) == ([], os.geteuid(), (pid, pid))
    assert pid != me
    assert molding.is_child(pid)
    assert status_of(os.P_PID, pid) == 7
    assert not molding.is_child(pid)


@pytest.mark.usefixtures("adopting")
def test_a_worker_that_is_not_adopted_ends_without_its_second_word():
    reading, writing = os.pipe()
    assert molding.fork_for(1, lambda: os.write(writing, b".")) == ""
    os.close(writing)
    assert status_of(os.P_ALL, 0) == 75
    assert os.read(reading, 9) == b"."
    os.close(reading)


@pytest.mark.usefixtures("adopting")
def test_a_worker_that_is_killed_before_it_has_spoken_leaves_no_zombie():
    assert molding.fork_for(os.getpid(), lambda: os.kill(os.getpid(), signal.SIGKILL)) == ""
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)


@pytest.mark.usefixtures("adopting")
def test_where_the_middle_process_cannot_fork_the_reason_is_told(monkeypatch):
    fork, me = os.fork, os.getpid()

    def refuse() -> int:
        if os.getpid() != me:
            raise BlockingIOError(11, "no")
        return fork()

    monkeypatch.setattr(os, "fork", refuse)
    assert molding.fork_for(me, lambda: None) == f"the mold cannot fork: {os.strerror(11)}"


def test_descriptors_get_the_numbers_that_are_asked_for():
    with open(os.devnull) as one, open(os.devnull) as other:
        received = [os.dup(one.fileno()), os.dup(other.fileno())]
        target = os.dup(one.fileno())
        inode = os.fstat(received[1]).st_ino
        fixed = molding.place_descriptors(received, [target], 1)
        assert len(fixed) == 1
        assert fixed[0] > target
        assert not os.get_inheritable(fixed[0])
        assert os.get_inheritable(target)
        assert os.fstat(target).st_ino == inode
        os.close(fixed[0])
        os.close(target)


def test_connections_are_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        name = f"the connection to 127.0.0.1 port {port}"
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert name in molding.connected_peers([])
            assert f"the listener on 127.0.0.1 port {port}" in molding.connected_peers([])
            assert name not in molding.connected_peers([client.fileno()])
        assert name not in molding.connected_peers([])


def test_threads_are_found():
    import threading

    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id in dict(molding.lone_after_fork())
    finally:
        done.set()
        thread.join()


def test_more_descriptors_than_belong_there_are_the_receiver_s_to_close():
    """Otherwise the kernel would close them on the receiver's behalf, and that may wait."""
    ours, theirs = molding.make_signed_pair()
    with ours, theirs:
        reading, writing = os.pipe()
        molding.send_with(theirs, b"x", [writing] * 253)
        received = molding.receive_signed(ours, 10)
        assert received is not None
        assert len(received[1]) == 253
        assert received[2:] == (os.getpid(), os.getuid())
        for fd in (*received[1], reading, writing):
            os.close(fd)
