"""The policy `round_robin` without descriptors: primary and worker pause, and no connection is lost."""

import asyncio
import collections
import errno
import os
import socket
import time

import pytest

from tests.kit import open_fds
from tests.kit.traffic import RECALL, Client, agents, close_all, closing, connect_at_once, servers
from tests.kit.trouble import descriptor_limit, no_descriptors, ordinary_user
from tests.kit.workers import LogLines, within

pytestmark = [pytest.mark.slow, pytest.mark.limit(45)]


async def test_a_primary_without_descriptors_pauses_and_recovers(tmp_path):
    """It does not spin meanwhile. Connections wait in the backlog."""
    async with servers(tmp_path, 1) as (_, _workers, address), closing([]) as clients:
        loop = asyncio.get_running_loop()
        socks = [socket.socket() for _ in range(3)]
        for sock in socks:
            sock.setblocking(False)
        with LogLines() as log:
            with no_descriptors():
                for sock in socks:
                    await loop.sock_connect(sock, address)
                await log.until("accept on")
                began, busy = time.monotonic(), time.process_time()
                await log.until("accept on", count=4)
                passed, busy = time.monotonic() - began, time.process_time() - busy
            assert passed >= 0.2  # three pauses
            assert busy < passed / 2
            for sock in socks:
                assert await within(loop.sock_recv(sock, 10)) == b"1\n"
                sock.close()
        clients.append(await Client.connect(address))


async def test_a_primary_without_descriptors_refuses_a_listen_and_grants_it_later(tmp_path):
    async with agents(tmp_path) as (cluster, worker):
        await worker.get("0")
        for spare in range(8):
            with no_descriptors(spare):
                error = await _listen_or_error(worker)
            if error is None:
                break
            assert error == [errno.EMFILE, ["many", "open", "files"]]
            assert cluster.snapshot().listeners == ()
        assert spare > 2  # the listener, two ends of a belt, two to send
        await worker.do("sock.close()")
        await worker.serve()
        assert [listener.workers for listener in cluster.snapshot().listeners] == [(worker.id,)]


async def _listen_or_error(worker):
    return await worker.get(
        """[
    None if raised[0] == "returned" else [raised[2], raised[3].split()[-3:]]
    for raised in [await perform(("exec", "sock = everycore.listen(('127.0.0.1', 0))", {}), None)]
][0]"""
    )


async def test_a_worker_short_of_descriptors_leaves_connections_to_others_and_comes_back(tmp_path):
    async with (
        agents(tmp_path, 2, recall_after=RECALL) as (_, first, second),
        closing([]) as clients,
    ):
        await first.do(
            "import resource\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))"
        )
        address = ("127.0.0.1", await first.serve())
        await second.serve(address[1])
        for _ in range(15):
            clients += await connect_at_once(address, 8)
        shares = collections.Counter(client.worker for client in clients)
        assert shares[first.id] < 64
        assert shares[first.id] + shares[second.id] == 120  # none was lost
        await close_all(clients)
        clients.clear()
        while True:
            clients.append(await Client.connect(address))
            if clients[-1].worker == first.id:
                break


@pytest.mark.ci_only
async def test_a_blocking_server_without_descriptors_leaves_connections_to_others_and_comes_back(tmp_path):
    async with agents(tmp_path, 2, recall_after=RECALL) as (_, first, second), closing([]) as clients:
        await first.do(
            """
import resource

sock = everycore.listen(("127.0.0.1", 0))
sock.setblocking(False)
kept = []

def accept():
    while True:
        select.select([sock], [], [])
        try:
            conn, peer = sock.accept()
        except OSError as error:
            if error.errno == errno.EMFILE:
                seen.set()
            continue
        kept.append(conn)
        conn.sendall(b"%d\\n" % ID)

seen = threading.Event()
limit = len(os.listdir("/proc/self/fd")) + 8
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
threading.Thread(target=accept, daemon=True).start()
"""
        )
        address = tuple(await first.get("sock.getsockname()"))
        await second.serve(address[1])
        for _ in range(10):
            clients += await connect_at_once(address, 8)
        shares = collections.Counter(client.worker for client in clients)
        assert 0 < shares[first.id] <= 16
        assert shares[first.id] + shares[second.id] == 80
        assert await first.get("seen.is_set()")
        await first.do("for conn in kept:\n    conn.close()\nkept.clear()")
        await close_all(clients)
        clients.clear()
        while True:
            clients.append(await Client.connect(address))
            if clients[-1].worker == first.id:
                break


async def test_too_many_descriptors_in_flight_are_waited_out(tmp_path):
    """unix(7), ETOOMANYREFS: without privileges at most RLIMIT_NOFILE descriptors may be in flight."""
    async with servers(tmp_path, 1, recall_after=RECALL) as (_, (only,), address), closing([]) as clients:
        ours, theirs = socket.socketpair()
        limit = max(open_fds()) + 40
        with ours, theirs:
            for _ in range(limit // 200 + 2):
                socket.send_fds(ours, [b"!"], [ours.fileno()] * 200)
            with descriptor_limit(limit), ordinary_user():
                if not _is_refused_in_flight():
                    pytest.skip("this kernel, or this user, has no such limit")
                clients.append(await Client.open(address))
                reading = asyncio.ensure_future(clients[0].reader.readline())
                done, _ = await asyncio.wait([reading], timeout=0.05)
                assert not done
                while True:  # let them arrive: they are closed, and no longer in flight
                    theirs.setblocking(False)
                    try:
                        _, fds, _, _ = socket.recv_fds(theirs, 1, 200)
                    except BlockingIOError:
                        break
                    for fd in fds:
                        os.close(fd)
                assert await within(reading) == b"%d\n" % only.id
        clients.append(await Client.connect(address))


def _is_refused_in_flight():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            socket.send_fds(ours, [b"!"], [ours.fileno()])
        except OSError as error:
            return error.errno == errno.ETOOMANYREFS
    return False
