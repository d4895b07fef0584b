"""The policy `shared` in other surroundings: io_uring, no /proc, forks, a plain `accept` before `ready`."""

import os
import signal
import sys
from collections import Counter

import pytest

from everycore import Cluster, Listening, Ready, Settings
from tests.kit.crowds import agents, both_loops, keep, servers
from tests.kit.ports import free_port
from tests.kit.traffic import Client, closing
from tests.kit.workers import PLAIN, Diary, program, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]


async def test_with_io_uring(tmp_path, monkeypatch):
    """libuv may keep its registrations in a ring, unnoticed."""
    monkeypatch.setenv("UV_USE_IO_URING", "1")
    async with servers(tmp_path, 3, policy="shared", loop="uvloop") as (cluster, workers, address):
        async with closing([]) as clients:
            tally = Counter(await keep(address, 60, clients))
            assert set(tally) == {worker.id for worker in workers}
            for client in clients:
                assert await client.echo() == "hello"
        workers[0].worker.kill(signal.SIGKILL)
        await within(workers[0].worker.wait())
        workers[1].worker.disconnect()
        assert (await within(workers[1].worker.wait())).code == 0
        assert list(cluster.workers) == [workers[2].id]
        client = await Client.connect(address)
        assert client.worker == workers[2].id
        await client.close()


WHOLE = """
async def greet(reader, writer):
    writer.write(b"%d\\n" % everycore.current_worker().id)
    async for line in reader:
        writer.write(line)
    writer.close()

async def main():
    if everycore.is_worker:
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        await server.serve_forever()
    async with everycore.Cluster(policy="shared", grace=5) as cluster:
        cluster.on(everycore.Listening, lambda event: say("port", event.address[1]))
        for _ in range(2):
            cluster.fork()
        await cluster.wait()

everycore.run(main(), loop=sys.argv[1])
"""


@both_loops
async def test_without_proc(tmp_path, loop, start_command):
    """A container may hide /proc."""
    if os.geteuid() != 0:
        pytest.fail("to hide /proc from a program this test must be root")
    script = tmp_path / "whole.py"
    script.write_text(program(WHOLE))
    hide = 'mount -t tmpfs none /proc && exec "$@"'
    whole = start_command(["unshare", "--mount", "sh", "-c", hide, "sh", sys.executable, str(script), loop])
    port = int(whole.expect(r"port (\d+)")[1])
    whole.expect("port")
    async with closing([]) as clients:
        assert set(await keep(("127.0.0.1", port), 20, clients)) == {1, 2}
    assert whole.finish() == 0


@both_loops
async def test_a_fork_of_a_worker_leaves_its_listener_alone(tmp_path, loop):
    """multiprocessing forks a worker: child and parent share one epoll, and the child closes its copies."""
    async with agents(tmp_path, 1, policy="shared", loop=loop) as (_, one):
        port = await one.serve()
        await one.do(
            """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=int)
child.start()
child.join()
"""
        )
        for _ in range(3):
            client = await Client.connect(("127.0.0.1", port))
            assert client.worker == one.id
            await client.close()


async def test_a_plain_accept_takes_no_connection_before_its_worker_is_ready(tmp_path):
    source = (
        "ID = everycore.current_worker().id\n"
        + PLAIN
        + """
port = int(os.environ["PORT"])
if ID == 1:
    everycore.current_worker().hold_ready()
serve_plainly(port)
if ID == 1:
    sys.stdin.readline()
    everycore.ready()
threading.Event().wait()
"""
    )
    port = free_port()
    script = worker_script(tmp_path, source)
    settings = Settings(exec=script, env={"PORT": str(port)}, stdio=["pipe", "inherit", "inherit"])
    async with Cluster(settings, policy="shared", grace=1.0) as cluster:
        diary = Diary(cluster)
        held = cluster.fork()
        await diary.until(Listening, held)
        async with closing([]) as clients:
            other = cluster.fork()
            await diary.until(Ready, other)
            assert set(await keep(("127.0.0.1", port), 20, clients)) == {other.id}
            assert held.stdin
            held.stdin.write(b"now\n")
            await diary.until(Ready, held)
            while held.id not in await keep(("127.0.0.1", port), 10, clients):
                pass
