"""Each client goes to its own worker: real workers, on both loops, over deaths, reloads and a proxy."""

import asyncio
import signal
import socket

import pytest

from everycore import Exited, Pool, Ready, Settings
from everycore.core.sticky import best
from tests.kit.crowds import both_loops
from tests.kit.ports import free_port
from tests.kit.traffic import AGENT, Client, agents, closing, one_by_one, servers
from tests.kit.workers import Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(45)]

SOURCES = [f"127.0.0.{number}" for number in range(1, 11)]


def own(source, slots):
    """The slot of a client with that address."""
    return best(socket.inet_aton(source), range(slots))


async def ask(source, port):
    """The worker that answers a client with that address."""
    made = await within(asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)))
    async with closing([Client(*made)]) as (client,):
        return await client.greeting()


@both_loops
async def test_a_client_has_one_worker_and_the_one_in_its_slot_after_it(tmp_path, loop):
    async with servers(tmp_path, 3, policy="sticky", loop=loop) as (cluster, workers, address):
        ids = {worker.worker.slot: worker.id for worker in workers}
        for _ in range(2):
            assert [await ask(source, address[1]) for source in SOURCES] == [
                ids[own(source, 3)] for source in SOURCES
            ]
        (listener,) = cluster.snapshot().listeners
        assert listener.policy == "sticky"
        assert listener.accepted == 2 * len(SOURCES)
        dying = workers[1].worker
        dying.kill(signal.SIGKILL)
        await within(dying.wait())
        for source in SOURCES:
            if own(source, 3) != 1:
                assert await ask(source, address[1]) == ids[own(source, 3)]
            else:
                assert await ask(source, address[1]) != dying.id


SERVER = AGENT.replace(
    "    await for_ever()",
    """    server = await asyncio.start_server(greet, "127.0.0.1", int(sys.argv[1]))
    await for_ever()""",
)


@pytest.mark.ci_only
async def test_a_reload_moves_no_client_to_another_slot(tmp_path):
    assert SERVER != AGENT
    port = free_port()
    settings = Settings(exec=worker_script(tmp_path, SERVER), args=[str(port)])
    async with Pool(3, settings=settings, policy="sticky", grace=5.0) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready, count=3)

        async def slots():
            at = {worker.id: worker.slot for worker in pool.workers.values()}
            return [at[await ask(source, port)] for source in SOURCES]

        assert await slots() == [own(source, 3) for source in SOURCES]
        reload = asyncio.create_task(pool.reload())
        while not reload.done():
            assert await slots() == [own(source, 3) for source in SOURCES]
        await reload
        await diary.until(Exited, count=3)
        assert await slots() == [own(source, 3) for source in SOURCES]


async def test_clients_on_a_unix_socket_are_served_in_turn(tmp_path):
    path = str(tmp_path / "sock")
    async with agents(tmp_path, 2, policy="sticky") as (cluster, one, two):
        for agent in (one, two):
            await agent.listens("server = await asyncio.start_unix_server(greet, path)", path=path)
        async with closing(await one_by_one(cluster, [path] * 4)) as clients:
            assert [client.worker for client in clients] == [one.id, two.id] * 2
        assert cluster.snapshot().listeners[0].policy == "round_robin"


NAMED = """
async def name(reader, writer):
    there = writer.get_extra_info("peername")
    sock = writer.get_extra_info("socket")
    writer.write(b"%s %d %s\\n" % (there[0].encode(), there[1], sock.getpeername()[0].encode()))
    writer.close()

server = await asyncio.start_server(name, "127.0.0.1", 0)
port = server.sockets[0].getsockname()[1]
"""


async def test_behind_a_proxy_the_program_sees_the_client(tmp_path):
    async with agents(tmp_path, 1, loop="asyncio", trust_proxy_protocol=["127.0.0.1"]) as (_, one):
        await one.listens(NAMED)
        port = await one.get("port")
        reader, writer = await within(asyncio.open_connection("127.0.0.1", port))
        writer.write(b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n")
        assert await within(reader.readline()) == b"192.0.2.7 4711 192.0.2.7\n"
        writer.close()
        # Other clients need no header.
        made = await within(asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.9", 0)))
        assert (await within(made[0].readline())).startswith(b"127.0.0.9 ")
        made[1].close()
