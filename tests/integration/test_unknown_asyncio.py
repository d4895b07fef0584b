"""A later Python whose asyncio has other private parts: servers go through the primary all the same."""

from everycore import Cluster, Listening, Settings
from tests.integration.traffic import NEVER, close_all, one_by_one
from tests.integration.workers import Diary, within, worker_script

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
