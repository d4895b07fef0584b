"""Debuggers in workers, where Node has its inspector; and the benchmark.

Python has no inspector of its own. `DEBUGGER` stands for debugpy and the like: it listens on a port, and
tells each client which process it is in.
"""

import asyncio
import errno
import json
import socket
import sys
from collections.abc import Iterable, Sequence
from signal import SIGTERM
from typing import Any

import pytest

import everycore
from everycore import Cluster, ExitStatus, Online, Settings, Worker
from tests.conformance.node import node
from tests.kit.folders import ROOT
from tests.kit.ports import free_ports
from tests.kit.traffic import Client, agents
from tests.kit.workers import Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"

#: `debug_at(host, port)` starts the debugger of this process and returns its address.
DEBUGGER = """
async def debug_at(host, port):
    async def attach(reader, writer):
        writer.write(b"%d\\n" % everycore.current_worker().id)
        await reader.read()
        writer.close()
    sock = everycore.listen((host, port), exclusive=True)
    kept.append(await asyncio.start_server(attach, sock=sock))
    return sock.getsockname()[:2]

kept = []
"""

#: A worker with a debugger at BASE + its id, or at PORT if that is given.
DEBUGGED = (
    DEBUGGER
    + """
async def main():
    me = everycore.current_worker()
    port = int(os.environ.get("PORT") or int(os.environ.get("BASE", 0)) + me.id)
    await me.send(await debug_at(os.environ.get("HOST", "127.0.0.1"), port))
    await for_ever()

everycore.run(main())
"""
)


async def first_words(workers: Sequence[Worker]) -> list[Any]:
    """The first thing that each of them sends."""
    return [(await within(anext(worker.messages()))).message for worker in workers]


async def attached(address: Iterable[Any]) -> int | None:
    """Which worker's debugger is at that address."""
    client = await Client.connect(tuple(address))
    await client.close()
    return client.worker


#: A debugger that waits for a client, at the port that is its first argument, before the program.
WAITING = """
import runpy, socket, sys

debugger = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("Debugger listening on", debugger.getsockname()[1], flush=True)
debugger.accept()
runpy.run_path(sys.argv[2], run_name="__main__")
"""


@node(
    "test-cluster-inspect-brk",
    adapted="`--inspect-brk` is `Settings(exec=[sys.executable, '-m', 'pdb', program])`, or debugpy "
    "with `--wait-for-client`: the worker stops before its first line.",
)
async def test_cluster_inspect_brk(tmp_path):
    """SIGTERM kills a worker that its debugger has stopped before the program begins.

    Adapted: pdb, which asks on standard output, and a debugger that waits for a connection.
    """
    script = tmp_path / "worker.py"
    script.write_text("print('not to be reached')")
    waiting = tmp_path / "waiting.py"
    waiting.write_text(WAITING)
    debuggers = {
        (sys.executable, "-m", "pdb", str(script)): b"(Pdb) ",
        (sys.executable, str(waiting), "0", str(script)): b"Debugger listening on ",
    }
    async with Cluster(Settings(stdio="pipe")) as cluster:
        diary = Diary(cluster)
        for command, prompt in debuggers.items():
            cluster.setup_primary(exec=command)
            worker = cluster.fork()
            assert worker.stdout is not None
            await within(worker.stdout.readuntil(prompt))
            worker.kill(SIGTERM)
            assert await within(worker.wait()) == ExitStatus(signal=SIGTERM)
            assert b"not to be reached" not in await within(worker.stdout.read())
        assert diary.all(Online) == []


@pytest.mark.ci_only
@node(
    "test-inspector-port-cluster",
    adapted="A worker's own port is `base + worker.id` with `exclusive=True`, or one that the primary "
    "chooses in `fork(env=)`, as with `inspectPort`. everycore adds no flag to a worker's "
    "command line, and an impossible port is a ConfigurationError in the worker.",
)
async def test_inspector_port_cluster(tmp_path):
    """Each worker's debugger has a port of its own, on any host, or the one that the primary chose for it.

    Adapted: the worker adds up the number, as Node's primary does.
    """
    base = free_ports(8)
    async with Cluster(Settings(exec=worker_script(tmp_path, DEBUGGED))) as cluster:
        hosts = ["127.0.0.1", "::1", "0.0.0.0", "::"]
        workers = [cluster.fork({"BASE": str(base), "HOST": host}) for host in hosts]
        expected: list[list[Any]] = [[host, base + number] for number, host in enumerate(hosts, 1)]
        workers.append(cluster.fork({"PORT": str(base + 7)}))
        expected.append([LOCAL, base + 7])
        assert await first_words(workers) == expected
        for worker, (host, port) in zip(workers, expected, strict=True):
            near = {"0.0.0.0": LOCAL, "::": "::1"}.get(host, host)
            assert await attached((near, port)) == worker.id
        assert cluster.snapshot().listeners == ()


async def test_a_port_that_can_not_be_is_refused_in_the_worker(tmp_path):
    """The other half of test-inspector-port-cluster."""
    async with agents(tmp_path) as (_, worker):
        for port in (65536, -1, 1293812, -9776, "string", None):
            code = "everycore.listen(('127.0.0.1', port), exclusive=True)"
            assert "ConfigurationError" in (await worker.fails(code, port=port)).classes


@pytest.mark.ci_only
@node(
    "test-inspector-port-zero-cluster",
    adapted="Port 0 with `exclusive=True` is a free port for each worker. The ports are not "
    "consecutive, and each worker reports its own.",
)
async def test_inspector_port_zero_cluster(tmp_path):
    """Any free port, in the primary and in every worker: all are different.

    Adapted: Node counts up from the primary's port, which fails where such a port is taken.
    """
    with everycore.listen((LOCAL, 0), exclusive=True) as mine:
        async with Cluster(Settings(exec=worker_script(tmp_path, DEBUGGED))) as cluster:
            workers = [cluster.fork({"PORT": "0"}) for _ in range(3)]
            addresses = await first_words(workers)
            assert len({tuple(address) for address in [*addresses, mine.getsockname()]}) == 4
            assert [await attached(address) for address in addresses] == [1, 2, 3]


@pytest.mark.ci_only
@node(
    "test-inspector-cluster-port-clash",
    adapted="A known failure in Node, where the worker ends with status 12. Here only that worker "
    "gets an OSError (EADDRINUSE), and it may take another port.",
)
async def test_inspector_cluster_port_clash(tmp_path):
    """One of three debug ports is taken: that worker's debugger uses another one; all three run and leave.

    Adapted: this is what Node's test asks for.
    """
    source = (
        DEBUGGER
        + """
async def main():
    me = everycore.current_worker()
    try:
        await me.send(await debug_at("127.0.0.1", int(os.environ["BASE"]) + me.id))
    except OSError as error:
        await me.send(error.errno)
        await me.send(await debug_at("127.0.0.1", 0))
    await for_ever()

everycore.run(main())
"""
    )
    base = free_ports(4)
    with socket.create_server((LOCAL, base + 2)):
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            workers = [cluster.fork({"BASE": str(base)}) for _ in range(3)]
            one, two, three = await first_words(workers)
            assert (one, two, three) == ([LOCAL, base + 1], errno.EADDRINUSE, [LOCAL, base + 3])
            [elsewhere] = await first_words(workers[1:2])
            assert [await attached(address) for address in (one, elsewhere, three)] == [1, 2, 3]
            for worker in workers:
                worker.disconnect()
            statuses = await asyncio.gather(*(within(worker.wait()) for worker in workers))
            assert statuses == [ExitStatus(code=0)] * 3


@node(
    "test-benchmark-cluster",
    adapted="This is everycore's own benchmark of the channel, in its shortest form: messages both "
    "ways, echoes, requests, handles. `python -m bench` runs it beside Node's.",
)
def test_benchmark_cluster(start_command):
    """The benchmark runs to its end, and every handle arrives.

    Adapted: `bench/programs/channel.py`, which does not need Node, with 200 messages instead of 60 000.
    """
    argv = [sys.executable, "-m", "bench.programs.channel", "200", "128", "16", "20"]
    program = start_command(argv, cwd=ROOT)
    assert program.wait() == 0
    figures = json.loads(program.stdout)
    handles = {name: count for name, count in figures.items() if name.startswith("handles")}
    assert handles["handles_to_worker"] == handles["handles_to_primary"] == 20
    assert handles["handles_both"] == 40
    rates = ["to_primary", "to_worker", "trips", "trips_windowed", "requests", "requests_windowed"]
    assert min(figures[name] for name in rates) > 0
