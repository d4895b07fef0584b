"""With and without private parts of other libraries, servers go through the primary."""

import pytest

from everycore import Cluster, Listening, Settings
from tests.kit.traffic import NEVER, Client, agents, close_all, one_by_one
from tests.kit.workers import Diary, within, worker_script

SERVER = """

async def greet(reader, writer):
    writer.write(b"%d\\n" % everycore.current_worker().id)
    await reader.read()
    writer.close()

async def main():
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    await server.serve_forever()

everycore.run(main(), loop="asyncio")
"""


async def test_servers_take_connections_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERYCORE_WITHOUT", "asyncio")
    settings = Settings(exec=worker_script(tmp_path, SERVER))
    async with Cluster(settings, grace=5.0, recall_after=NEVER) as cluster:
        diary = Diary(cluster)
        workers = [cluster.fork(), cluster.fork()]
        addresses = {(await within(diary.until(Listening, worker))).address for worker in workers}
        (address,) = addresses
        clients = await one_by_one(cluster, [address] * 10)
        assert [client.worker for client in clients].count(1) == 5
        await close_all(clients)
        await cluster.disconnect()


@pytest.fixture(params=["", "all"], ids=["private", "public"])
def ways(request, monkeypatch):
    """With the private parts of other libraries, and without."""
    monkeypatch.setenv("EVERYCORE_WITHOUT", request.param)


@pytest.mark.slow
@pytest.mark.usefixtures("ways", "loop_kind")
class TestBothWays:
    async def test_tcp_connections_do_not_wait_for_more_to_send(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            await worker.do(
                "seen = []\n"
                "class Look(asyncio.Protocol):\n"
                "    def connection_made(self, transport):\n"
                "        sock = transport.get_extra_info('socket')\n"
                "        seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)\n"
                "        transport.close()\n"
                "server = await asyncio.get_running_loop().create_server(Look, '127.0.0.1', 0)"
            )
            client = await Client.open(tuple(await worker.get("server.sockets[0].getsockname()")))
            assert await client.ended() == b""
            await client.close()
            assert await worker.get("seen") == [True]

    async def test_a_factory_that_returns_no_protocol_harms_no_other_connection(self, tmp_path):
        async with agents(tmp_path) as (cluster, worker):
            await worker.do(
                "told = []\n"
                "asyncio.get_running_loop().set_exception_handler(\n"
                "    lambda loop, context: told.append(type(context['exception']).__name__))\n"
                "class Bye(asyncio.Protocol):\n"
                "    def connection_made(self, transport):\n"
                "        transport.write(b'%d\\n' % ID)\n"
                "        transport.close()\n"
                "protocols = [None, 'text']\n"
                "def factory():\n"
                "    return protocols.pop() if protocols else Bye()\n"
                "server = await asyncio.get_running_loop().create_server(factory, '127.0.0.1', 0)"
            )
            address = tuple(await worker.get("server.sockets[0].getsockname()"))
            for _ in range(2):
                client = await Client.open(address)
                assert await client.ended() == b""
                await client.close()
            for _ in range(5):
                client = await Client.connect(address)
                assert client.worker == worker.id
                await client.close()
            assert len(await worker.get("told")) == 2
            await within(cluster.disconnect())

    async def test_a_transport_that_the_program_drops_ends_its_connection(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            await worker.do(
                "import gc, warnings\n"
                "warnings.simplefilter('ignore', ResourceWarning)\n"
                "class Careless(asyncio.Protocol):\n"
                "    def connection_made(self, transport):\n"
                "        self.transport = transport  # a cycle\n"
                "        asyncio.get_running_loop().call_soon(transport.pause_reading)\n"
                "server = await asyncio.get_running_loop().create_server(Careless, '127.0.0.1', 0)"
            )
            client = await Client.open(tuple(await worker.get("server.sockets[0].getsockname()")))
            await within(
                worker.do("while inside.connections.open:\n    gc.collect()\n    await asyncio.sleep(0)")
            )
            assert await client.ended() == b""
            await client.close()

    async def test_a_unix_path_that_is_empty_is_the_loops_affair(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            failure = await worker.fails("await asyncio.start_unix_server(greet, '')")
            assert "OSError" not in failure.classes or "in use" not in str(failure)

    async def test_endpoints_refuse_what_loops_refuse(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            endpoint = "await asyncio.get_running_loop().create_datagram_endpoint(asyncio.DatagramProtocol, "
            assert (await worker.fails(endpoint + "('127.0.0.1', 0), no_such=1)")).classes[0] == "TypeError"
            assert (await worker.fails(endpoint + "('127.0.0.1',))")).classes[0] == "TypeError"
