"""Sockets that a service manager has passed: the sockets are real, the manager is a list."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from everycore.core.listeners import ListenKey
from everycore.core.passed import StoredName
from everycore.primary.listeners.passed import PassedSockets
from everycore.system.descriptors import duplicate
from everycore.system.given import GivenListener
from everycore.system.listeners import BoundSocket, DatagramSocket, StreamListener

V4, V6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


class FakeStore:
    """Keeps what it is given, and remembers the calls."""

    def __init__(self) -> None:
        self.kept: list[BoundSocket] = []
        self.forgotten: list[StoredName] = []
        self.is_stopping = False

    def keep(self, sock: BoundSocket) -> bool:
        if sock not in self.kept:
            self.kept.append(sock)
        return True

    def has(self, sock: BoundSocket) -> None:
        self.keep(sock)

    def let_go(self, sock: BoundSocket) -> bool:
        return sock in self.kept and self.is_stopping

    def forget(self, name: StoredName) -> None:
        self.forgotten.append(name)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def passed(sock: socket.socket, name: str) -> tuple[PassedSockets, FakeStore]:
    """`sock` as the manager passes it, under a new descriptor."""
    found = PassedSockets({duplicate(sock.fileno()): name})
    store = FakeStore()
    found.store = store
    return found, store


def take(
    found: PassedSockets,
    address: object,
    make: type[BoundSocket] = StreamListener,
    *,
    family: int = V4,
    **more,
) -> BoundSocket | None:
    key = ListenKey(address, family, make.kind)
    return found.take(key, make, **{"v6only": False, "backlog": 5, "mode": None, **more})


def test_a_stored_listener_is_taken_over_with_its_waiting_connections(opened):
    sock = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    client = opened.enter_context(socket.create_connection(sock.getsockname()))
    found, store = passed(sock, str(StoredName(1)))
    address = sock.getsockname()
    sock.close()
    taken = take(found, ("localhost", address[1]))
    assert taken is not None
    assert found.unclaimed == 0
    assert take(found, address) is None  # once
    taken.listen()
    assert store.kept == [taken]
    accepted, peer = taken.sock.accept()
    accepted.close()
    assert peer == client.getsockname()
    taken.suspend()  # the manager has it too, and keeps it for the next primary
    assert taken.is_listening
    taken.close()


@pytest.mark.parametrize("address", [("127.0.0.1", 1), ("no.such.host.invalid", 80), ("127.0.0.1", "x")])
def test_another_address_is_bound_anew(opened, address):
    sock = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    found, store = passed(sock, str(StoredName(1)))
    assert take(found, address) is None
    assert found.unclaimed == 1
    found.give_up()
    assert store.forgotten == [StoredName(1)]
    assert found.unclaimed == 0


@pytest.mark.parametrize("reuses", [0, 1])
def test_one_that_is_in_the_way_is_given_up_at_once(opened, reuses):
    """It has listened on one address, and is to listen on all. The manager still has the old socket."""
    sock = opened.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuses)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    found, store = passed(sock, str(StoredName(1)))
    address = ("0.0.0.0", sock.getsockname()[1])
    assert take(found, address) is None
    assert store.forgotten == [StoredName(1)]
    new = StreamListener.bound(address, family=V4, v6only=False, backlog=5)
    new.listen()
    new.close()


def test_datagrams(opened):
    sock = opened.enter_context(socket.socket(V4, DATAGRAM))
    sock.bind(("127.0.0.1", 0))
    found, _ = passed(sock, str(StoredName(1)))
    assert take(found, sock.getsockname()) is None
    taken = take(found, sock.getsockname(), DatagramSocket)
    assert taken is not None
    taken.close()


def test_what_systemd_has_opened_stays_its_own(opened):
    sock = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    found, store = passed(sock, "web.socket")
    assert found.unclaimed == 0
    for _ in range(2):
        taken = take(found, sock.getsockname())
        assert taken is not None
        assert not taken.owned
        taken.close()
    found.give_up()
    assert (store.kept, store.forgotten) == ([], [])
    for fd in [one.fd for one in found._passed]:
        os.close(fd)


def test_descriptors_other_than_bound_sockets_are_left_alone(opened, tmp_path):
    file = opened.enter_context((tmp_path / "file").open("w"))
    unbound = opened.enter_context(socket.socket())
    closed = os.dup(0)
    os.close(closed)
    found = PassedSockets({fd: str(StoredName(1)) for fd in (file.fileno(), closed)})
    assert found.unclaimed == 0
    assert take(PassedSockets({unbound.fileno(): ""}), ("127.0.0.1", 0)) is None


@pytest.mark.parametrize("make", [StreamListener, GivenListener])
def test_a_unix_socket_keeps_its_file(opened, tmp_path, make):
    path = str(tmp_path / "s")
    sock = opened.enter_context(socket.socket(UNIX))
    sock.bind(path)
    sock.listen()
    seen = os.stat(path)
    found, store = passed(sock, str(StoredName(1, (seen.st_dev, seen.st_ino))))
    taken = take(found, path, make, family=UNIX, mode=0o640)
    assert taken is not None
    taken.listen()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    if make is GivenListener:
        os.unlink(path)  # as asyncio does, when a program ends
    store.is_stopping = True
    taken.close()
    assert os.stat(path).st_ino == seen.st_ino
    hidden = [f".everycore-{os.getpid()}-{seen.st_ino}"] if make is GivenListener else []
    assert sorted(os.listdir(tmp_path)) == [*hidden, "s"]


@pytest.mark.parametrize("other", ["", "another"])
def test_a_program_that_removes_the_file_before_it_binds(opened, tmp_path, other):
    """It is put back from the name that the last primary has left, unless the path is in use by now."""
    path = str(tmp_path / "s")
    sock = opened.enter_context(socket.socket(UNIX))
    sock.bind(path)
    sock.listen()
    seen = os.stat(path)
    os.link(path, tmp_path / f".everycore-{2**22 + 1}-{seen.st_ino}")  # there is no such process
    os.unlink(path)
    if other:
        (tmp_path / "s").touch()
    found, _ = passed(sock, str(StoredName(1, (seen.st_dev, seen.st_ino))))
    taken = take(found, path, GivenListener, family=UNIX)
    if other:
        assert taken is None
        found.give_up()
        return
    assert taken is not None
    assert os.stat(path).st_ino == seen.st_ino
    assert sorted(os.listdir(tmp_path)) == [f".everycore-{os.getpid()}-{seen.st_ino}", "s"]
    taken.keeper = None
    taken.close()
    assert os.listdir(tmp_path) == []


def test_a_unix_socket_whose_file_is_another_ones_is_given_up(opened, tmp_path):
    path = str(tmp_path / "s")
    sock = opened.enter_context(socket.socket(UNIX))
    sock.bind(path)
    seen = os.stat(path)
    found, _ = passed(sock, str(StoredName(1, (seen.st_dev, seen.st_ino + 1))))
    assert take(found, path, family=UNIX) is None
    found.give_up()


def test_a_new_listener_is_kept_once_it_listens(opened):
    found = PassedSockets()
    store = FakeStore()
    found.store = store
    sock = StreamListener.bound(("127.0.0.1", 0), family=V4, v6only=False, backlog=5)
    kept = found.keep(ListenKey(sock.real, V4, STREAM), sock)
    assert store.kept == []
    assert kept.owned
    kept.listen()
    assert store.kept == [kept]
    assert not kept.owned
    kept.close()


def test_a_port_of_the_kernels_choice_is_not_kept():
    found = PassedSockets()
    store = FakeStore()
    found.store = store
    sock = StreamListener.bound(("127.0.0.1", 0), family=V4, v6only=False, backlog=5)
    found.keep(ListenKey(("127.0.0.1", 0), V4, STREAM), sock).listen()
    assert store.kept == []
    assert sock.owned
    sock.close()


def test_a_unix_socket_that_is_let_go_for_good_takes_its_file_along(tmp_path):
    path = str(tmp_path / "s")
    found = PassedSockets()
    found.store = FakeStore()
    sock = StreamListener.bound(path, family=UNIX, v6only=False, backlog=5)
    found.keep(ListenKey(path, UNIX, STREAM), sock).listen()
    sock.close()
    assert os.listdir(tmp_path) == []
