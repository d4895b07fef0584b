"""A worker's half of handing connections on: what it sends, and what it gets."""

import socket

import pytest

from everycore.core import wire
from everycore.errors import ProtocolError
from everycore.system.descriptors import close_all
from everycore.worker.connections import handons as module
from everycore.worker.connections.handons import HandOns
from tests.kit import open_fds


@pytest.fixture
def said():
    return []


@pytest.fixture
def handons(said):
    handons = HandOns()

    def post(message, fds):
        said.append(message)
        close_all(fds)

    handons.speak_by(post)
    return handons


def test_it_hands_on_no_more_than_it_said(handons, said, monkeypatch):
    monkeypatch.setattr(module, "descriptor_limit", lambda: module._SPARE + 2)
    handons.begin(lambda sock: None)
    assert said == [wire.CanHandOn(2)]
    assert not handons.may
    handons.is_told = True
    while handons.may:
        handons.hand_on(socket.socket().detach())
    assert said[1:] == [wire.HandOn()] * 2


def test_it_is_undecided_until_the_primary_has_said_whether_it_may(handons):
    assert not handons.is_undecided  # its server can't
    handons.begin(lambda sock: None)
    assert handons.is_undecided
    for told in (False, True):
        handons.is_told = told
        assert not handons.is_undecided
        assert handons.may is told


def test_what_comes_is_the_servers(handons):
    near, far = socket.socketpair()
    taken: list[socket.socket] = []
    handons.begin(taken.append)
    handons.take_over([near.detach()])
    (sock,) = taken
    with sock, far:
        assert sock.gettimeout() == 0.0
        far.sendall(b"x")
        assert sock.recv(1) == b"x"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_connection_without_a_server_here_is_closed(handons, count):
    if count != 1:
        handons.begin(lambda sock: pytest.fail("served"))
    fds = [socket.socket().detach() for _ in range(count)]
    with pytest.raises(ProtocolError, match="TakeOver"):
        handons.take_over(fds)
    assert not open_fds().keys() & set(fds)
