"""Holes of Node's cluster that are closed here: how the primary itself ends."""

import asyncio
import contextlib
import os
import socket
from signal import SIGKILL

import pytest

from tests.kit import scaled, turn
from tests.kit.crowds import servers
from tests.kit.traffic import NEVER, Client, closing
from tests.kit.workers import HEAD, eventually, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"


# 18: how the primary itself ends

#: A primary that ends in the way named by its first argument, at a line of its stdin; and its worker.
PRIMARY = """
async def echo(reader, writer):
    async for line in reader:
        writer.write(line)
    writer.close()

async def primary():
    async with everycore.Cluster(grace=float(sys.argv[1]), orphan_grace=float(sys.argv[2])) as cluster:
        cluster.on(everycore.Exited, lambda event: say("exited:", event.status))
        cluster.fork()
        await asyncio.to_thread(sys.stdin.readline)

async def worker():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    say("worker", os.getpid(), "of", os.getppid(), "on", server.sockets[0].getsockname()[1])
    await server.serve_forever()

everycore.run(primary() if everycore.is_primary else worker())
"""

#: Starts a program, adopts its orphans, and reports how each process ended.
ADOPTER = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
subprocess.Popen([sys.executable, *sys.argv[1:]])
try:
    while True:
        pid, status = os.wait()
        print(pid, "ended with", os.waitstatus_to_exitcode(status), flush=True)
except ChildProcessError:
    pass
"""


def connect(port: int) -> socket.socket:
    """A connection that the worker has picked up."""
    client = socket.create_connection((LOCAL, port), timeout=scaled(10))
    try:
        assert echo(client)
    except BaseException:
        client.close()
        raise
    return client


def echo(client: socket.socket) -> bool:
    """Whether a line comes back; False if the connection has ended."""
    client.sendall(b"hello\n")
    return client.recv(100) == b"hello\n"


def until_refused(port: int) -> None:
    """Wait until no process listens any more."""
    with contextlib.suppress(ConnectionError):
        while True:
            socket.create_connection((LOCAL, port), timeout=scaled(10)).close()


def test_hole_18_a_primary_that_ends_lets_its_workers_finish(start_program):
    """When Node's primary ends, its workers are cut off, with status 0. Here they finish first."""
    running = start_program(HEAD + PRIMARY, "1000", "0")
    port = int(running.expect(r"on (\d+)")[1])
    with connect(port) as client:
        running.write("end\n")
        until_refused(port)
        assert echo(client)
        assert running.is_running
    running.expect("exited: exit status 0")
    assert running.wait() == 0


def test_hole_18_no_longer_than_the_grace(start_program):
    """Node has no such limit. Here an endless connection is cut, and the worker ends properly."""
    running = start_program(HEAD + PRIMARY, "0.1", "0")
    with connect(int(running.expect(r"on (\d+)")[1])) as client:
        running.write("end\n")
        assert client.recv(100) == b""
        running.expect("exited: exit status 0")
        assert running.wait() == 0


def start_adopted(start_program, tmp_path, orphan_grace):
    """Returns the adopter, the worker's pid, the primary's pid and the port."""
    running = start_program(ADOPTER, str(worker_script(tmp_path, PRIMARY)), "1000", orphan_grace)
    return running, *map(int, running.expect(r"worker (\d+) of (\d+) on (\d+)").groups())


def test_hole_18_a_killed_primary_takes_its_workers_with_it(start_program, tmp_path):
    """Node's worker loses its primary and ends with status 0, as in a normal exit. Here it is killed."""
    running, worker, primary, port = start_adopted(start_program, tmp_path, "0")
    with connect(port) as client:
        os.kill(primary, SIGKILL)
        assert client.recv(100) == b""
    # The kernel kills the worker with its primary, and may report either first.
    ended = {int(running.expect(r"(\d+) ended with -9")[1]) for _ in range(2)}
    assert ended == {primary, worker}
    assert running.wait() == 0


def test_hole_18_or_with_orphan_grace_they_finish(start_program, tmp_path):
    """Node's worker stops with status 0. Here, with `orphan_grace`, it finishes and has status 75."""
    running, worker, primary, port = start_adopted(start_program, tmp_path, "1000")
    with connect(port) as client:
        os.kill(primary, SIGKILL)
        running.expect(f"{primary} ended with -9")
        until_refused(port)
        assert echo(client)
    running.expect(f"{worker} ended with 75")
    assert running.wait() == 0


async def test_hole_18_waiting_connections_are_served_before_the_end(tmp_path):
    """Node's primary drops its queued connections when it ends. Here the last worker gets them."""
    async with servers(tmp_path, 1, policy="round_robin", grace=20.0, recall_after=NEVER) as (
        cluster,
        (one,),
        address,
    ):
        async with closing([]) as clients:
            async with one.standing_still():
                clients += [await Client.open(address) for _ in range(2)]
                await eventually(lambda: cluster.snapshot().workers[0].outstanding == 2, turn)
                leaving = asyncio.create_task(cluster.disconnect())
                await turn(3)
            ends = await asyncio.gather(*(client.greeting() for client in clients), return_exceptions=True)
        await within(leaving)
        assert ends == [one.id] * 2
