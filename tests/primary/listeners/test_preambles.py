"""Connections of proxies: real loop, real sockets; time stands still."""

import logging

import pytest

from everycore.core.proxies import read_header
from everycore.core.sticky import best
from everycore.primary.listeners import preambles
from everycore.primary.listeners.preambles import MOST_WAITING, PATIENCE
from everycore.system import closing
from tests.kit import open_fds
from tests.kit.stage import stage

HEADER = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n"
HERE = ["127.0.0.1"]


async def test_the_header_is_taken_off_and_names_the_peer():
    async with stage(1, proxies=HERE) as it:
        await it.connect()
        assert it.distribution.accepted == 0
        it.clients[0].sendall(HEADER + b"hello")
        await it.settled()
        _, (conn,), peers = it.workers[1].take()
        assert peers == [["192.0.2.7", 4711]]
        assert conn.recv(100) == b"hello"
        assert it.distribution.accepted == 1


async def test_it_may_come_in_pieces_and_wakes_no_worker_in_between(monkeypatch):
    """Each part is read once: left there, it would keep the loop awake."""
    reads = []

    def counted(data):
        reads.append(data)
        return read_header(data)

    monkeypatch.setattr(preambles, "read_header", counted)
    async with stage(1, proxies=HERE) as it:
        await it.connect()
        for at in range(len(HEADER)):
            assert it.workers[1].take() is None
            it.clients[0].sendall(HEADER[at : at + 1])
            await it.settled()
            await it.settled()
        assert len(reads) == len(HEADER)
        assert it.workers[1].take()[2] == [["192.0.2.7", 4711]]


async def test_a_proxy_that_sends_none_holds_up_no_other_and_is_closed(caplog):
    async with stage(1, proxies=HERE) as it:
        await it.connect(3)
        others = await it.connect(2, "127.0.0.9")
        assert it.workers[1].take_all() == others
        with caplog.at_level(logging.WARNING, "everycore.primary"):
            await it.loop.pass_time(PATIENCE * 1.01)
        assert [client.recv(1) for client in it.clients[:3]] == [b"", b"", b""]
        (record,) = caplog.records  # not one for each
        assert "127.0.0.1" in record.getMessage()
        assert "it did not come within 5 s" in record.getMessage()
        assert it.distribution.accepted == 2


async def test_a_malformed_header_closes_the_connection_and_is_logged(caplog):
    async with stage(1, proxies=HERE) as it:
        await it.connect()
        it.clients[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
        with caplog.at_level(logging.WARNING, "everycore.primary"):
            await it.settled()
        with pytest.raises(ConnectionResetError):
            it.clients[0].recv(1)
        assert "there is none" in caplog.text


async def test_a_check_that_connects_and_goes_is_not_logged(caplog):
    async with stage(1, proxies=HERE) as it:
        await it.connect()
        it.clients[0].close()
        with caplog.at_level(logging.DEBUG, "everycore.primary"):
            await it.settled()
        assert not caplog.records
        assert it.workers[1].take() is None


async def test_with_too_many_the_oldest_goes():
    async with stage(1, proxies=HERE, backlog=512) as it:
        await it.connect(MOST_WAITING + 2)
        for _ in range(5):  # they are accepted in portions
            await it.settled()
        assert [client.recv(1) for client in it.clients[:2]] == [b"", b""]
        for client in it.clients[2:]:
            client.sendall(HEADER)
        found: list[int] = []
        for _ in range(MOST_WAITING):
            await it.settled()
            found += it.workers[1].take_all()
            it.workers[1].ack()
        assert found == [4711] * MOST_WAITING


async def test_an_untrusted_peer_is_not_examined():
    async with stage(1, proxies=["10.0.0.0/8"]) as it:
        await it.connect()
        it.clients[0].sendall(HEADER)
        _, (conn,), peers = it.workers[1].take()
        assert peers[0][0] == "127.0.0.1"
        assert conn.recv(100) == HEADER


async def test_sticky_goes_by_the_client_that_it_names():
    names = [f"192.0.2.{number}" for number in range(1, 25)]
    own = {name: best(bytes([192, 0, 2, int(name.split(".")[3])]), range(3)) + 1 for name in names}
    assert len(set(own.values())) == 3
    async with stage(1, 2, 3, policy="sticky", proxies=HERE) as it:
        for number, name in enumerate(names):
            await it.connect()
            it.clients[number].sendall(HEADER.replace(b"192.0.2.7", name.encode()))
            await it.settled()
            assert it.workers[own[name]].take()[2] == [[name, 4711]]
            it.workers[own[name]].ack()


async def test_the_end_closes_those_that_wait():
    before = open_fds()
    async with stage(1, proxies=HERE) as it:
        await it.connect(2)
        it.listener.close()
        assert [client.recv(1) for client in it.clients] == [b"", b""]
    assert open_fds() == before


async def test_a_stop_waits_for_the_headers_of_connections_that_had_come(monkeypatch):
    monkeypatch.setattr(closing, "bar", lambda sock: False)  # as without CAP_NET_ADMIN
    async with stage(1, proxies=HERE) as it:
        await it.connect()
        it.listener.shut()
        it.listener.finish(1)
        await it.settled()
        assert ("finished", 1) not in it.events
        it.clients[0].sendall(HEADER)
        await it.settled()
        assert it.workers[1].take_all() == [4711]
        it.workers[1].ack()
        await it.settled()
        assert it.events[-1] == ("finished", 1)
