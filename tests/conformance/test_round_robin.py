"""Round robin in particular: full workers, servers that close, and what keeps a worker alive."""

import signal
from collections import Counter

import pytest

from everycore import Cluster, ExitStatus, Listening, Message, Online, Settings
from tests.conformance.node import node
from tests.kit import open_fds, turn
from tests.kit.traffic import Client, agents, closing, is_refused, servers
from tests.kit.workers import Diary, eventually, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: A worker with a running server; `main` goes on with what a test adds.
SERVE = """
async def greet(reader, writer):
    writer.write(b"%d\\n" % everycore.current_worker().id)
    writer.close()

async def main():
    me = everycore.current_worker()
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
"""


def serving(folder, then):
    """The settings of workers that serve, and then run `then`."""
    return Settings(exec=worker_script(folder, f"{SERVE}    {then}\n\neverycore.run(main())\n"))


# Full workers


@node("test-cluster-net-server-drop-connection")
async def test_cluster_net_server_drop_connection(tmp_path):
    path = str(tmp_path / "socket")
    async with agents(tmp_path, 3, policy="round_robin") as (_, *workers), closing([]) as clients:
        most = dict(zip([worker.id for worker in workers], (0, 1, 9), strict=True))
        for worker in workers:
            await worker.listens(
                "server = await asyncio.start_unix_server(greet, path)\n"
                "everycore.limit_connections(server, most)",
                path=path,
                most=most[worker.id],
            )
        clients += [await Client.open(path) for _ in range(10)]
        shares = Counter([await client.greeting() for client in clients])
        assert {worker: shares[worker] for worker in most} == most


@node(
    "test-http-server-drop-connections-in-cluster",
    adapted="`everycore.limit_connections(server, 0, on_drop=...)` is maxConnections with dropMaxConnection;"
    " the event 'drop' is that function, called with the client's address.",
)
async def test_http_server_drop_connections_in_cluster(tmp_path, policy):
    """The limit is a setting of any server here, so the test does not need HTTP."""
    async with servers(tmp_path, 1, policy=policy) as (_, (worker,), address):
        await worker.do("dropped = []; everycore.limit_connections(server, 0, on_drop=dropped.append)")
        client = await Client.open(address)
        assert await client.ended() == b""
        assert await worker.get("dropped") == [list(client.writer.get_extra_info("sockname"))]
        await client.close()
        await worker.do("everycore.limit_connections(server, None)")
        async with closing([await Client.connect(address)]):
            assert await worker.get("len(dropped)") == 1


# What keeps a worker alive


@node(
    "test-cluster-rr-handle-close",
    adapted="Python's loops count no references, so there is no channel to unref: a worker whose "
    "server is closed ends when its `main` returns.",
)
async def test_cluster_rr_handle_close(tmp_path):
    """In Node the process ends when it has nothing left to wait for; here when `main` returns."""
    settings = serving(tmp_path, "server.close(); await server.wait_closed()")
    async with Cluster(settings, policy="round_robin") as cluster:
        assert await within(cluster.fork().wait()) == ExitStatus(code=0)
        assert cluster.snapshot().listeners == ()


@node(
    "test-cluster-rr-handle-keep-loop-alive",
    adapted="What keeps the worker running is `await server.serve_forever()`, which ends when the "
    "worker is asked to leave; an open server alone would not.",
)
async def test_cluster_rr_handle_keep_loop_alive(tmp_path):
    """In Node the listening server itself keeps it, without being awaited."""
    settings = serving(tmp_path, "await server.serve_forever()")
    async with Cluster(settings, policy="round_robin") as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        address = (await diary.until(Listening)).address
        for _ in range(3):
            client = await Client.connect(address)
            assert client.worker == worker.id
            await client.close()
        assert not worker.is_dead()
        worker.disconnect()
        assert await within(worker.wait()) == ExitStatus(code=0)


@node(
    "test-cluster-rr-handle-ref-unref",
    adapted="There is no `unref()`: an open server never keeps a worker running whose `main` has "
    "returned, as if each server were unref'd.",
)
async def test_cluster_rr_handle_ref_unref(tmp_path):
    """The server is never closed; the worker ends all the same, and its listener ends with it."""
    async with Cluster(serving(tmp_path, "pass"), policy="round_robin") as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        address = (await diary.until(Listening)).address
        assert await within(worker.wait()) == ExitStatus(code=0)
        assert await is_refused(address)


@node(
    "test-cluster-rr-ref",
    adapted="There is no `ref()` or `unref()`; the callback of `close()` is `await server.wait_closed()`.",
)
async def test_cluster_rr_ref(tmp_path):
    """The worker reports that its server has closed and is then killed, as Node's is."""
    then = "server.close(); await server.wait_closed(); await me.send('done'); await for_ever()"
    async with Cluster(serving(tmp_path, then), policy="round_robin") as cluster:
        worker = cluster.fork()
        said: list[str] = []

        def heard(message):
            said.append(message.message)
            worker.kill(signal.SIGKILL)

        worker.on(Message, heard)
        assert await within(worker.wait()) == ExitStatus(signal=signal.SIGKILL)
        assert said == ["done"]


# Servers that close


@node("test-cluster-worker-handle-close")
async def test_cluster_worker_handle_close(tmp_path):
    """Later connections go to other workers, and this one keeps none of their descriptors."""
    async with servers(tmp_path, 2, policy="round_robin") as (cluster, (first, second), address):
        open_after = []
        for _ in range(2):
            async with closing([]) as clients:
                async with first.standing_still(then="server.close()"):
                    clients += [await Client.open(address) for _ in range(4)]
                    await given_to(cluster, first, 1)
                assert [await client.greeting() for client in clients] == [second.id] * 4
            await first.serve(address[1])
            open_after.append(len(open_fds(first.worker.pid)))
        assert open_after[0] == open_after[1]


async def given_to(cluster, worker, count):
    """Wait until `count` connections lie at `worker`, which has not taken them."""

    def lie_there():
        shots = {shot.id: shot for shot in cluster.snapshot().workers}
        return shots[worker.id].outstanding >= count

    await eventually(lie_there, turn)


@node("test-cluster-shared-leak")
async def test_cluster_shared_leak(tmp_path):
    async with servers(tmp_path, 1, policy="shared", grace=10.0) as (cluster, (first,), address):
        diary = Diary(cluster)
        second = cluster.fork()
        await diary.until(Online, second)
        async with closing([await Client.connect(address)]) as clients:
            first.worker.disconnect()
            second.disconnect()
            assert await within(second.wait()) == ExitStatus(code=0)
            assert await clients[0].echo() == "hello"
        assert await within(first.worker.wait()) == ExitStatus(code=0)
