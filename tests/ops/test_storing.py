"""What a service manager is asked to keep, with a real notifier and a socket of the test."""

import os
import socket

import pytest

from everycore import Pool
from everycore.core.passed import StoredName, read_name
from everycore.ops.announcing import GIVE_UP_AFTER, Announcer
from everycore.ops.storing import ListenerStore
from everycore.primary.listeners.passed import PassedSockets
from everycore.system.listeners import StreamListener
from everycore.system.notify import Notifier
from everycore.testing import FakeWorkers, VirtualTimeLoop, settle
from tests.kit import pass_time
from tests.kit.service_managers import FakeSystemd


@pytest.fixture(autouse=True)
def loop_factory():
    return VirtualTimeLoop


@pytest.fixture
def manager(tmp_path):
    with FakeSystemd(tmp_path, room=2) as manager:
        yield manager


@pytest.fixture
def notifier(tmp_path, manager):
    notifier = Notifier(str(tmp_path / "notify"), room=2)
    yield notifier
    notifier.close()


@pytest.fixture
def listeners():
    """Three of them."""
    made = [
        StreamListener.bound(("127.0.0.1", 0), family=socket.AF_INET, v6only=False, backlog=5) for _ in "abc"
    ]
    yield made
    for listener in made:
        listener.close()


def listen(listener: StreamListener, store: ListenerStore) -> None:
    listener.keeper = store
    listener.listen()


def test_a_listener_is_stored_once_and_is_not_silenced_any_more(manager, notifier, listeners):
    store = ListenerStore(notifier, lambda: 0)
    first = listeners[0]
    listen(first, store)
    assert store.keep(first)
    manager.hear()
    ((name, fd),) = manager.stored
    assert os.path.samestat(os.fstat(fd), os.fstat(first.sock.fileno()))
    assert read_name(name) == StoredName(os.fstat(fd).st_ino)
    assert not first.owned


def test_one_without_room_stays_our_own_and_that_is_told(manager, notifier, listeners, caplog):
    store = ListenerStore(notifier, lambda: 1)
    listen(listeners[0], store)
    listen(listeners[1], store)
    manager.hear()
    assert len(manager.stored) == 1
    assert [listener.owned for listener in listeners[:2]] == [False, True]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(listeners[1].what)
    assert "room for 2" in line


def test_what_is_closed_while_the_service_goes_on_is_forgotten(manager, notifier, listeners):
    store = ListenerStore(notifier, lambda: 0)
    listen(listeners[0], store)
    listeners[0].close()
    manager.hear()
    assert manager.stored == []
    listen(listeners[1], store)
    listen(listeners[2], store)
    manager.hear()
    assert len(manager.stored) == 2  # there is room again


def test_what_is_closed_by_a_stop_is_kept(manager, notifier, listeners):
    store = ListenerStore(notifier, lambda: 0)
    listen(listeners[0], store)
    store.stop()
    listeners[0].close()
    listen(listeners[1], store)
    manager.hear()
    assert len(manager.stored) == 1
    assert listeners[1].owned


@pytest.fixture
def workers():
    with FakeWorkers() as workers:
        yield workers


async def test_an_unwanted_stored_socket_is_given_up(workers, manager, tmp_path, monkeypatch):
    """The configuration has changed: a client there must not wait for ever."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("FDSTORE", "2")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
        name = StoredName(os.fstat(sock.fileno()).st_ino)
        pool = Pool(1)
        pool.cluster._distribution.passed = PassedSockets({os.dup(sock.fileno()): str(name)})
    announcer = Announcer(pool, "shop")
    async with pool:
        announcer.begin()
        await settle()
        await pass_time(GIVE_UP_AFTER - 2)
        socket.create_connection(address).close()
        await pass_time(3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
    announcer.close()
    manager.hear()
    assert f"FDSTOREREMOVE=1\nFDNAME={name}" in manager.told


def test_a_manager_without_a_store_is_given_nothing(workers, manager, tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.delenv("FDSTORE", raising=False)
    pool = Pool(1)
    announcer = Announcer(pool, "shop")
    assert pool.cluster._distribution.passed.store is None
    announcer.close()
