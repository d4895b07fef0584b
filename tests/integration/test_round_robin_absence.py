"""The policy `round_robin` without a worker: refused or held, and the port kept for the replacement."""

import signal
import socket

import pytest

from everycore import Listening, Ready
from tests.kit.traffic import Agent, Client, agents, closing, greetings, is_refused, one_by_one, servers
from tests.kit.workers import Diary, within

pytestmark = [pytest.mark.slow, pytest.mark.limit(45)]

LOCAL = "127.0.0.1"


async def test_refuse_refuses_and_keeps_the_port_for_the_replacement(tmp_path):
    async with servers(tmp_path, 1) as (cluster, (only,), address):
        only.worker.kill(signal.SIGKILL)
        await within(only.worker.wait())
        assert await is_refused(address)
        for reuse in (0, 1):
            with socket.socket() as thief, pytest.raises(OSError, match="in use"):
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                thief.bind(address)
                thief.listen()
        replacement = Agent(cluster.fork())
        assert await replacement.serve(0) == address[1]  # the same random port
        client = await Client.connect(address)
        assert client.worker == replacement.id
        await client.close()


async def test_hold_keeps_them_waiting_for_the_replacement(tmp_path):
    async with servers(tmp_path, 1, when_no_worker="hold") as (cluster, (only,), address):
        only.worker.kill(signal.SIGKILL)
        await within(only.worker.wait())
        async with closing([await Client.open(address) for _ in range(3)]) as clients:
            replacement = Agent(cluster.fork())
            assert await replacement.serve(0) == address[1]
            assert await greetings(clients) == [replacement.id] * 3


async def test_hold_ends_after_hold_timeout_and_begins_anew_with_the_next_ready_worker(tmp_path):
    async with servers(tmp_path, 1, when_no_worker="hold", hold_timeout=0.5) as (cluster, (only,), address):
        only.worker.kill(signal.SIGKILL)
        await within(only.worker.wait())
        async with closing([await Client.open(address)]) as clients:
            assert await clients[0].ended() == b""  # the time is over
        assert await is_refused(address)
        replacement = Agent(cluster.fork())
        assert await replacement.serve(0) == address[1]
        await (await Client.connect(address)).close()


async def test_hold_lasts_through_a_voluntary_departure(tmp_path):
    async with servers(tmp_path, 1, when_no_worker="hold") as (cluster, (only,), address):
        only.worker.disconnect()
        await within(only.worker.wait())
        async with closing([await Client.open(address)]) as clients:
            replacement = Agent(cluster.fork())
            await replacement.serve(address[1])
            assert await greetings(clients) == [replacement.id]


async def test_with_refuse_the_last_voluntary_departure_frees_the_port(tmp_path):
    async with servers(tmp_path, 1) as (cluster, (only,), address):
        only.worker.disconnect()
        await within(only.worker.wait())
        assert cluster.snapshot().listeners == ()
        socket.create_server(address).close()


@pytest.mark.parametrize("absence", ["refuse", "hold"])
async def test_a_worker_that_listens_and_is_not_ready_gets_nothing(tmp_path, absence):
    async with agents(tmp_path, 1, when_no_worker=absence) as (cluster, only):
        diary = Diary(cluster)
        await only.do("me.hold_ready()")
        address = (LOCAL, await only.serve())
        await diary.until(Listening)
        assert not only.worker.is_ready
        async with closing([]) as clients:
            if absence == "refuse":
                assert await is_refused(address)
            else:
                clients.append(await Client.open(address))
            await only.do("everycore.ready()")
            await diary.until(Ready)
            clients.append(await Client.open(address))
            assert set(await greetings(clients)) == {only.id}
        assert len(diary.all(Ready)) == 1


async def test_a_worker_that_is_not_ready_is_skipped(tmp_path):
    async with agents(tmp_path, 2) as (cluster, first, second), closing([]) as clients:
        port = await first.serve()
        await second.do("me.hold_ready()")
        await second.serve(port)
        clients += await one_by_one(cluster, [(LOCAL, port)] * 3)
        assert [client.worker for client in clients] == [first.id] * 3
        await second.do("everycore.ready()")
        clients += await one_by_one(cluster, [(LOCAL, port)] * 4)
        assert [client.worker for client in clients[3:]].count(second.id) == 2
