"""The primary is stopped (SIGSTOP, a debugger): a worker's loop does not stop with it."""

import os
import socket
from signal import SIGCONT, SIGSTOP, SIGTERM

import pytest

from tests.kit import scaled, wait_gone
from tests.kit.workers import HEAD

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]

#: A primary with one worker, which serves a connected client, and reports its end.
PROGRAM = (
    HEAD
    + """
async def echo(reader, writer):
    async for line in reader:
        writer.write(line)
        await writer.drain()
    writer.close()

async def worker():
    me = everycore.current_worker()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)

    def obey():
        order = os.read(0, 100).decode()
        try:
            exec(order, globals() | {"me": me})
            say("done", order.strip())
        except Exception as exc:
            say("failed", repr(exc))

    asyncio.get_running_loop().add_reader(0, obey)
    say("worker", os.getpid(), server.sockets[0].getsockname()[1])
    await server.serve_forever()

async def primary():
    async with everycore.Cluster(everycore.Settings(stdio="inherit")) as cluster:
        worker = cluster.fork()
        async for event in cluster.events(everycore.Exited):
            say("exited", event.code, event.voluntary)
            break

everycore.run(primary() if everycore.is_primary else worker())
"""
)


def start(start_program):
    """The program, the worker's pid, and a client that is being served."""
    program = start_program(PROGRAM)
    pid, port = map(int, program.expect(r"worker (\d+) (\d+)").groups())
    client = socket.create_connection(("127.0.0.1", port), timeout=scaled(10))
    assert is_served(client)
    return program, pid, client


def is_served(client):
    client.sendall(b"hello\n")
    return client.recv(100) == b"hello\n"


def test_a_worker_that_is_told_to_leave_finishes_its_work_and_leaves(start_program, loop_kind):
    """It used to wait half a minute for an answer, then raise, and never leave."""
    program, pid, client = start(start_program)
    with client:
        program.signal(SIGSTOP)
        os.kill(pid, SIGTERM)
        assert is_served(client)
    assert wait_gone([pid], timeout=10) == []
    program.signal(SIGCONT)
    program.expect("exited 0 True")  # the primary read its last messages
    assert program.wait() == 0


@pytest.mark.parametrize("order", ["me.hold_ready()", "me.ready()", "everycore.ready()"])
def test_an_order_is_not_waited_for(start_program, order):
    program, _, client = start(start_program)
    with client:
        program.signal(SIGSTOP)
        program.write(order + "\n")
        program.expect(f"done {order}".replace("(", r"\(").replace(")", r"\)"), timeout=10)
        assert is_served(client)
        program.signal(SIGCONT)
        program.signal(SIGTERM)
    program.expect("exited 0 True")
    assert program.wait() == 0
