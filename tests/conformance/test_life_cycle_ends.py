"""Node's tests of a worker's end: asked to leave, or by itself."""

import asyncio
import contextlib
from signal import SIGTERM

import pytest

from everycore import (
    ChannelClosed,
    Cluster,
    Disconnected,
    Exited,
    ExitStatus,
    Listening,
    Online,
    Settings,
    State,
)
from everycore.testing import FakeWorkers, settle
from tests.conformance.node import node
from tests.kit.ends import End
from tests.kit.traffic import Client, is_refused
from tests.kit.workers import Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: A worker that calls `me.ACTION()`, ACTION being in its environment.
ACTS = """
async def main():
    me = everycore.current_worker()
    assert me.is_connected()
    getattr(me, os.environ["ACTION"])()
    await for_ever()

everycore.run(main())
"""


# Asked to leave


@node("test-cluster-call-and-destroy")
async def test_cluster_call_and_destroy(tmp_path):
    connected = []

    def destroy(event):
        connected.append(event.worker.is_connected())
        event.worker.kill()

    async with Cluster(Settings(exec=worker_script(tmp_path, ACTS))) as cluster:
        cluster.on(Disconnected, destroy)
        worker = cluster.fork({"ACTION": "disconnect"})
        status = await within(worker.wait())
    assert connected == [False]
    assert worker.exited_voluntarily
    # SIGTERM may reach it during its last moments: before Python's own end, or after it.
    assert status in (ExitStatus(code=0), ExitStatus(signal=SIGTERM))


@pytest.mark.race
@node("test-cluster-concurrent-disconnect")
async def test_cluster_concurrent_disconnect(tmp_path):
    """Messages to workers that are leaving may fail: with ChannelClosed, where Node has EPIPE."""
    source = """
    async def main():
        me = everycore.current_worker()

        def obey(message):
            if me.is_connected():
                getattr(me, message.message)()

        me.on(everycore.Message, obey)
        await for_ever()
    everycore.run(main())
    """

    def tell(worker, word):
        if worker.is_connected():
            with contextlib.suppress(ChannelClosed):
                worker.send_nowait(word)

    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        diary = Diary(cluster)
        workers = [cluster.fork() for _ in range(4)]
        cluster.on(Disconnected, lambda event: [tell(worker, "disconnect") for worker in workers])
        await diary.until(Online, count=4)
        for number, worker in enumerate(workers):
            tell(worker, "disconnect" if number % 2 else "kill")
        statuses = [await within(worker.wait()) for worker in workers]
    assert statuses == [ExitStatus(code=0)] * 4
    assert len(diary.all(Disconnected)) == 4


@node("test-cluster-disconnect")
async def test_cluster_disconnect(tmp_path, policy):
    source = """
    async def echo(reader, writer):
        writer.write(b"echo")
        writer.close()

    async def main():
        servers = [await asyncio.start_server(echo, "127.0.0.1", 0) for _ in range(2)]
        await for_ever()
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        for _ in range(2):
            diary = Diary(cluster)
            workers = [cluster.fork() for _ in range(2)]
            await diary.until(Listening, count=4)
            addresses = {event.address for event in diary.all(Listening)}
            assert len(addresses) == 2
            for address in addresses:
                client = await Client.open(address)
                assert await client.ended() == b"echo"
                await client.close()
            await within(cluster.disconnect())
            assert len(cluster.workers) == 0
            assert [await worker.wait() for worker in workers] == [ExitStatus(code=0)] * 2


@node("test-cluster-disconnect-before-exit")
async def test_cluster_disconnect_before_exit(loop_factory):
    ending: list[asyncio.Task[None]] = []
    there = []
    with FakeWorkers(life=None) as workers:
        async with Cluster() as cluster:

            def disconnect_all(event):
                there.append(event.worker.id in cluster.workers)
                ending.append(asyncio.ensure_future(cluster.disconnect()))

            diary = Diary(cluster)
            cluster.on(Online, lambda event: event.worker.disconnect())
            cluster.on(Disconnected, disconnect_all)
            worker = cluster.fork()
            workers[worker].online()
            await workers[worker].asked_to_leave()
            workers[worker].close_channel()
            await diary.until(Disconnected)
            await settle()
            assert not ending[0].done()
            workers[worker].exit()
            await ending[0]
            assert worker.is_dead()
            assert await worker.wait() == ExitStatus(code=0)
    assert there == [True]
    assert diary.names(worker) == ["Forked", "Online", "Disconnected", "Exited"]


@node("test-cluster-disconnect-exitedAfterDisconnect-race")
async def test_cluster_disconnect_exitedAfterDisconnect_race(tmp_path):
    """`disconnect()` returns once the primary has acknowledged it: a worker that then ends is voluntary."""
    source = """
    async def main():
        me = everycore.current_worker()
        fired = []
        me.on(everycore.Disconnected, fired.append)
        me.disconnect()
        if fired:
            os._exit(3)
        if os.environ["THEN"] == "end":
            os._exit(0)
        try:
            await for_ever()
        finally:
            sys.exit(0 if fired else 4)
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        ends = [End(cluster, cluster.fork({"THEN": then})) for then in ("wait", "end")]
        await within(cluster.wait())
    for end in ends:
        end.check(ExitStatus(code=0), voluntary=True)


@node("test-cluster-disconnect-idle-worker")
async def test_cluster_disconnect_idle_worker(loop_factory):
    with FakeWorkers():
        async with Cluster() as cluster:
            fork = cluster.fork
            workers = [fork(), fork()]
            await cluster.disconnect()
            assert dict(cluster.workers) == {}
            assert [await worker.wait() for worker in workers] == [ExitStatus(code=0)] * 2


@node("test-cluster-disconnect-unshared-tcp")
async def test_cluster_disconnect_unshared_tcp(tmp_path):
    await unshared(tmp_path, "server = await asyncio.start_server(lambda *_: None, '127.0.0.1', 0)")


@node("test-cluster-disconnect-unshared-udp")
async def test_cluster_disconnect_unshared_udp(tmp_path):
    await unshared(
        tmp_path,
        "pair = await asyncio.get_running_loop().create_datagram_endpoint("
        "asyncio.DatagramProtocol, local_addr=('127.0.0.1', 0))",
    )


async def unshared(folder, listen):
    """One worker listens, the other one leaves first."""
    source = f"""
    async def main():
        if "BOUND" in os.environ:
            {listen}
        await for_ever()
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(folder, source)), policy="shared") as cluster:
        diary = Diary(cluster)
        unbound = cluster.fork()
        await diary.until(Online, unbound)
        bound = cluster.fork({"BOUND": "y"})
        await diary.until(Listening, bound)
        unbound.disconnect()
        await diary.until(Disconnected, unbound)
        assert bound.is_connected()
        await within(cluster.disconnect())
        for worker in (unbound, bound):
            assert await worker.wait() == ExitStatus(code=0)


@node("test-cluster-disconnect-with-no-workers")
async def test_cluster_disconnect_with_no_workers():
    order = []
    async with Cluster() as cluster:
        task = asyncio.ensure_future(cluster.disconnect())
        task.add_done_callback(lambda _: order.append("disconnected"))
        order.append("called")
        await within(task)
    assert order == ["called", "disconnected"]


@node("test-cluster-worker-disconnect")
async def test_cluster_worker_disconnect(tmp_path, policy):
    source = """
    async def main():
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        everycore.current_worker().on(everycore.Disconnected, lambda event: sys.exit(42))
        await for_ever()
    everycore.run(main())
    """
    returned = []
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        end = End(cluster, worker)
        worker.on(Listening, lambda event: returned.append(worker.disconnect()))
        await within(worker.wait())
    assert returned == [worker]
    end.check(ExitStatus(code=42), voluntary=True)
    assert diary.names(worker)[-2:] == ["Disconnected", "Exited"]


@node("test-cluster-worker-wait-server-close")
async def test_cluster_worker_wait_server_close(tmp_path, policy):
    source = """
    closed = False

    class Dot(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            transport.write(b".\\n")

        def data_received(self, data):
            self.transport.write(data)

        def connection_lost(self, error):
            global closed
            closed = True

    async def main():
        server = await asyncio.get_running_loop().create_server(Dot, "127.0.0.1", 0)
        everycore.current_worker().on(everycore.Disconnected, lambda event: os._exit(5 if closed else 3))
        await for_ever()
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        address = (await diary.until(Listening)).address
        client = await Client.open(address)
        assert await within(client.reader.readline()) == b".\n"
        worker.disconnect()
        for _ in range(3):
            assert await client.echo() == "hello"
        assert await is_refused(address)
        assert worker.state is State.DRAINING
        assert diary.all(Disconnected) == []
        await client.close()
        assert await within(worker.wait()) == ExitStatus(code=5)
    assert diary.names(worker)[-2:] == ["Disconnected", "Exited"]


# By itself


@node("test-cluster-kill-disconnect")
async def test_cluster_kill_disconnect(tmp_path):
    async with Cluster(Settings(exec=worker_script(tmp_path, ACTS))) as cluster:
        ends = [End(cluster, cluster.fork({"ACTION": action})) for action in ("disconnect", "kill")]
        await within(cluster.wait())
    for end in ends:
        end.check(ExitStatus(code=0), voluntary=True)


@node(
    "test-cluster-process-disconnect",
    adapted="No call closes the channel and lets the worker go on, as `process.disconnect()` does: "
    "the only call is `current_worker().disconnect()`, and the exit is then voluntary.",
)
async def test_cluster_process_disconnect(tmp_path, policy):
    """A worker that lost its channel would be killed anyway, since the primary could not stop it."""
    source = """
    async def main():
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        everycore.current_worker().disconnect()
        await server.serve_forever()
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        worker = cluster.fork()
        end = End(cluster, worker)
        await within(worker.wait())
    end.check(ExitStatus(code=0), voluntary=True)


@node("test-cluster-worker-death")
async def test_cluster_worker_death(tmp_path):
    async with Cluster(Settings(exec=worker_script(tmp_path, "sys.exit(42)"))) as cluster:
        diary = Diary(cluster)
        own = []
        worker = cluster.fork()
        worker.on(Exited, lambda event: own.append((event.code, event.signal)))
        await within(worker.wait())
    assert own == [(42, None)]
    assert [event.worker for event in diary.all(Exited)] == [worker]


@node("test-cluster-worker-destroy")
async def test_cluster_worker_destroy(tmp_path):
    source = """
    async def main():
        me = everycore.current_worker()
        if me.id == 1:
            me.on(everycore.Disconnected, lambda event: me.kill())
            assert me.disconnect() is me
        else:
            me.kill()
        await for_ever()
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        ends = [End(cluster, cluster.fork()) for _ in range(2)]
        await within(cluster.wait())
    for end in ends:
        end.check(ExitStatus(code=0), voluntary=True)


@node("test-cluster-worker-exit")
async def test_cluster_worker_exit(tmp_path, policy):
    source = """
    async def main():
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        sys.exit(42)
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        end = End(cluster, worker)
        await within(worker.wait())
    end.check(ExitStatus(code=42), voluntary=False)
    (exited,) = diary.all(Exited)
    assert (exited.code, exited.signal, exited.worker) == (42, None, worker)
    assert len(diary.all(Disconnected)) == 1
