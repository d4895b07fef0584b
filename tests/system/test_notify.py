"""NOTIFY_SOCKET, as with systemd: a datagram socket of the test."""

import os
import socket

import pytest

from everycore.system.notify import notifier


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def environment(path: object, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(path), "PATH": "/bin", **more}


def test_lines_are_one_message(manager):
    to = notifier(environment(manager.getsockname()), 7)
    assert to is not None
    assert to.tell("READY=1", "STATUS=2 of 2 workers ready é\udcff")
    assert manager.recv(1000) == "READY=1\nSTATUS=2 of 2 workers ready é\\udcff".encode()
    to.close()


def test_an_abstract_name():
    name = f"everycore-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        to = notifier(environment("@" + name), 7)
        assert to is not None
        to.tell("READY=1")
        assert sock.recv(1000) == b"READY=1"
        to.close()


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_of_this_process(manager, more, seconds):
    environ = environment(manager.getsockname(), **more)
    to = notifier(environ, 7)
    assert to is not None
    assert to.watchdog == seconds
    assert environ == {"PATH": "/bin"}  # workers must not notify for the primary
    to.close()


@pytest.mark.parametrize("address", ["", "@", "vsock:2:1234", "relative"])
def test_without_a_unix_socket_no_manager_is_told(address):
    environ = environment(address)
    assert notifier(environ, 7) is None
    assert environ == {"PATH": "/bin"}


def test_an_empty_backlog_is_not_an_error(tmp_path):
    to = notifier(environment(tmp_path / "nobody"), 7)
    assert to is not None
    assert to.tell("READY=1")
    to.close()


def test_what_a_full_manager_does_not_take_is_said_later(manager):
    to = notifier(environment(manager.getsockname()), 7)
    assert to is not None
    count = 0
    while to.tell(f"STATUS={count}"):
        count += 1
    assert not to.tell("READY=1")
    heard = []
    while True:
        try:
            heard.append(manager.recv(1000))
        except BlockingIOError:
            break
    assert to.tell("STATUS=now")
    assert [manager.recv(1000) for _ in range(3)] == [b"STATUS=%d" % count, b"READY=1", b"STATUS=now"]
    assert len(heard) == count
    to.close()


def test_a_descriptor_goes_with_a_message(manager, tmp_path):
    to = notifier(environment(manager.getsockname(), FDSTORE="3"), 7)
    assert to is not None
    assert to.room == 3
    with open(tmp_path / "file", "w") as file:
        to.tell("FDSTORE=1", "FDNAME=x", fd=file.fileno())
        data, (fd,), _, _ = socket.recv_fds(manager, 1000, 4)
        assert data == b"FDSTORE=1\nFDNAME=x"
        assert os.path.samestat(os.fstat(fd), os.fstat(file.fileno()))
        os.close(fd)
    to.close()


@pytest.mark.parametrize("text", ["", "-1", "x", "\u00b2"])
def test_no_room(manager, text):
    environ = environment(manager.getsockname(), FDSTORE=text)
    to = notifier(environ, 7)
    assert to is not None
    assert to.room == 0
    assert environ == {"PATH": "/bin"}
    to.close()


def test_a_descriptor_waits_for_a_full_manager_and_no_word_drives_it_out(manager, tmp_path):
    to = notifier(environment(manager.getsockname()), 7)
    assert to is not None
    while to.tell("STATUS=x"):
        pass
    with open(tmp_path / "file", "w") as file:
        assert not to.tell("FDSTORE=1", fd=file.fileno())
    for _ in range(40):
        assert not to.tell("STATUS=y")
    stored = 0
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(manager, 1000, 4)
        except BlockingIOError:
            if to.tell("STATUS=z"):
                break
            continue
        stored += (data == b"FDSTORE=1") and len(fds)
        for fd in fds:
            os.close(fd)
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(manager, 1000, 4)
        except BlockingIOError:
            break
        stored += (data == b"FDSTORE=1") and len(fds)
        for fd in fds:
            os.close(fd)
    assert stored == 1
    to.close()


def test_what_was_not_heard_is_closed_in_the_end(manager, tmp_path):
    to = notifier(environment(manager.getsockname()), 7)
    assert to is not None
    while to.tell("STATUS=x"):
        pass
    with open(tmp_path / "file", "w") as file:
        to.tell("FDSTORE=1", fd=file.fileno())
    to.close()  # the fixture of every test finds a descriptor that is left
