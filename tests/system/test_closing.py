"""What keeps clients from a listener that is about to close."""

import socket
import struct

import pytest

from everycore.system import closing
from tests.kit.limits import scaled


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)], ids=["IPv4", "IPv6"])
def listener(request):
    host, family = request.param
    with socket.create_server((host, 0), family=family) as sock:
        yield sock


@pytest.fixture
def barred(listener):
    if not closing.bar(listener):
        pytest.skip("a socket filter takes CAP_NET_ADMIN")
    return listener


def begin(listener, sockets):
    """Begin a handshake."""
    client = socket.socket(listener.family)
    sockets.append(client)
    client.setblocking(False)
    client.connect_ex(listener.getsockname())
    return client


@pytest.fixture
def sockets():
    opened: list[socket.socket] = []
    yield opened
    for sock in opened:
        sock.close()


def test_a_barred_listener_begins_no_handshake(barred, sockets):
    begin(barred, sockets)
    assert closing.count_handshakes(barred) == 0
    barred.setblocking(False)
    with pytest.raises(BlockingIOError):
        barred.accept()


def test_those_in_the_queue_are_still_accepted_and_may_speak(listener, sockets):
    with socket.create_connection(listener.getsockname()[:2]) as before:
        if not closing.bar(listener):
            pytest.skip("a socket filter takes CAP_NET_ADMIN")
        accepted, _ = listener.accept()
        with accepted:
            before.sendall(b"hello")
            accepted.settimeout(scaled(10))
            assert accepted.recv(10) == b"hello"


def test_one_that_is_no_longer_barred_is_a_listener_again(barred):
    closing.unbar(barred)
    with socket.create_connection(barred.getsockname()[:2], timeout=scaled(10)):
        barred.accept()[0].close()


def test_without_the_privilege_it_says_so():
    class Refusing:
        def setsockopt(self, level, option, value):
            raise PermissionError

    assert not closing.bar(Refusing())  # type: ignore[arg-type]


def test_a_handshake_under_way_is_counted(listener, sockets):
    client = socket.socket(listener.family)
    sockets.append(client)
    if not closing.bar(client):
        pytest.skip("a socket filter takes CAP_NET_ADMIN")
    closing.unbar(client)
    deaf = struct.pack("=HBBI", 0x06, 0, 0, 0)  # drops every answer of the listener
    closing.attach(client, deaf)
    client.setblocking(False)
    client.connect_ex(listener.getsockname())
    assert closing.count_handshakes(listener) == 1
