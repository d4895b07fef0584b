"""Errors of Node with connections and listeners, which everycore must not have; the rest: test_holes_ends.py.

The holes are numbered across both files. Number 14, no routing by what a client sends, is a decision here as
in Node, and has no test.
"""

import asyncio
import errno
import fcntl
import os
import signal
import socket

import pytest

import everycore
from everycore import BootError, ExitStatus, Listening, Pool, Ready, Settings
from tests.kit import open_fds, turn, wait_gone, waiting
from tests.kit.crowds import both_loops, servers
from tests.kit.listeners import listening_sockets
from tests.kit.ports import free_port
from tests.kit.traffic import NEVER, Agent, Client, acknowledged, agents, closing, is_refused, until_on_belt
from tests.kit.workers import ECHO, IDLE, Diary, eventually, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"

#: Shuts down a worker's channel (and the pipe that wakes its loop), whatever they are called.
CUT_CHANNEL = """
for name in os.listdir("/proc/self/fd"):
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
        if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM):
            sock.shutdown(socket.SHUT_RDWR)
"""


# 1, 5, 7: connections on their way


@both_loops
@pytest.mark.parametrize("how", ["SIGKILL", "os._exit(3)"])
async def test_hole_01_on_its_way_to_a_dying_worker(tmp_path, how, loop):
    """Node's primary keeps such a connection open for ever, unanswered. everycore's reads it back from the
    belt, and another worker answers.
    """
    async with servers(tmp_path, 2, policy="round_robin", loop=loop, recall_after=NEVER) as (
        cluster,
        (one, two),
        address,
    ):
        async with closing([]) as clients:
            async with one.standing_still(then=how if how != "SIGKILL" else ""):
                clients += [await Client.open(address) for _ in range(4)]
                await until_on_belt(cluster, one)
                if how == "SIGKILL":
                    one.worker.kill(signal.SIGKILL)
                    await within(one.worker.wait())
            assert [await client.greeting() for client in clients] == [two.id] * 4


@pytest.mark.parametrize("how", ["dead", "cut off"])
async def test_hole_05_for_a_worker_whose_channel_is_down(tmp_path, how):
    """Node drops such a connection: it neither closes it nor offers it to another worker. everycore does the
    latter.

    One worker is dead, and its primary has not noticed yet; the other one lives, blocked, without a channel.
    """
    async with servers(tmp_path, 2, policy="round_robin", recall_after=NEVER) as (
        cluster,
        (one, two),
        address,
    ):
        async with closing([]) as clients:
            if how == "dead":
                one.worker.kill(signal.SIGKILL)
                assert one.worker.pid
                assert wait_gone([one.worker.pid]) == []  # blocks this process, the primary
            else:
                async with one.standing_still(then=CUT_CHANNEL + "signal.pause()"):
                    clients += [await Client.open(address) for _ in range(4)]
                    await until_on_belt(cluster, one)
            socks = [socket.create_connection(address) for _ in range(8)]
            clients += [Client(*await asyncio.open_connection(sock=sock)) for sock in socks]
            assert {await client.greeting() for client in clients} == {two.id}
        one.worker.kill(signal.SIGKILL)


@pytest.mark.parametrize("how", ["os._exit(3)", "server.close()", "me.disconnect()"])
async def test_hole_07_after_the_last_worker_went(tmp_path, how):
    """In Node, what the last worker gives back goes to a queue without a reader: the client hangs, the
    descriptor leaks. Here a worker that leaves in order serves the client; otherwise the client sees the end.
    The primary keeps nothing, and the next worker serves.
    """
    async with agents(tmp_path, 0, policy="round_robin") as (cluster,):
        left: list[int] = []
        for in_flight in (0, 2):
            worker = Agent(cluster.fork())
            address = (LOCAL, await worker.serve())
            async with closing([]) as clients:
                async with worker.standing_still(then=how):
                    clients += [await Client.open(address) for _ in range(in_flight * 2)]
                    await until_on_belt(cluster, worker, in_flight)
                if how == "me.disconnect()":  # it serves those that had come, as no other worker can
                    assert [await client.greeting() for client in clients] == [worker.id] * len(clients)
                else:
                    assert [await client.ended() for client in clients] == [b""] * len(clients)
            if how == "server.close()":
                worker.worker.disconnect()
            await within(worker.worker.wait())
            assert await is_refused(address)
            left.append(len(open_fds()))
        assert left[0] == left[1]
        replacement = Agent(cluster.fork())
        await (await Client.connect((LOCAL, await replacement.serve()))).close()


# 3, 13: more than can be served


async def test_hole_03_no_worker_is_asked_again_while_all_are_full(tmp_path, policy):
    """Node sends a connection too many to its full workers again and again, thousands of times a second. Here
    the workers say once that they are full, and the connection waits until one says that it has room.
    """
    async with servers(tmp_path, 2, policy=policy) as (cluster, workers, address):
        for worker in workers:
            await worker.do("everycore.limit_connections(server, 1)")
        async with closing([await Client.connect(address)]) as clients:
            await acknowledged(cluster)
            clients.append(await Client.connect(address))
            await acknowledged(cluster)
            assert {client.worker for client in clients} == {worker.id for worker in workers}
            clients.append(waits := await Client.open(address))
            for _ in range(100):  # this many turns of all three loops
                for client in clients[:2]:
                    assert await client.echo() == "hello"
            assert [worker.handed_over for worker in cluster.snapshot().workers] == [1, 1]
            room = clients.pop(0)
            await room.close()
            assert await waits.greeting() == room.worker


async def test_hole_13_back_pressure(tmp_path):
    """Node's primary accepts without limit and keeps the connections in its memory. everycore's leaves them
    in the kernel's backlog until a worker has credit.
    """
    async with servers(tmp_path, 1, policy="round_robin", recall_after=NEVER) as (cluster, (one,), address):
        async with closing([]) as clients:
            async with one.standing_still():
                clients += [await Client.open(address) for _ in range(60)]
                await until_on_belt(cluster, one)
                (sock,) = listening_sockets(address[1])
                with sock:
                    await eventually(
                        lambda: waiting(sock) == 60 - cluster.snapshot().listeners[0].accepted, turn
                    )
                (listener,) = cluster.snapshot().listeners
                assert listener.queued == 0
                assert listener.accepted <= 16
            assert {await client.greeting() for client in clients} == {one.id}


async def test_hole_13_a_blocked_worker(tmp_path):
    """A connection handed to a worker that blocks waits for it in Node. Here another worker takes it over."""
    async with servers(tmp_path, 2, policy="round_robin", recall_after=0.02) as (_, (one, two), address):
        async with closing([]) as clients, one.standing_still():
            clients += [await Client.open(address) for _ in range(4)]
            assert [await client.greeting() for client in clients] == [two.id] * 4


async def test_hole_13_a_limit_of_draining(tmp_path, policy):
    """A connection that never ends delays Node's disconnect for ever. Here it is cut when the grace is over,
    and the worker ends properly.
    """
    async with servers(tmp_path, 1, policy=policy, grace=0.1) as (_, (one,), address):
        async with closing([await Client.connect(address)]) as clients:
            one.worker.disconnect()
            assert await clients[0].ended() == b""
            assert await within(one.worker.wait()) == ExitStatus(code=0)


async def test_hole_13_replacement(tmp_path):
    """Node never replaces a worker. A `Pool` does: with a new id, in the same slot."""
    settings = Settings(exec=worker_script(tmp_path, ECHO))
    async with Pool(1, settings=settings) as pool:
        diary = Diary(pool.cluster)
        victim = (await diary.until(Ready)).worker
        victim.kill(signal.SIGKILL)
        replacement = (await diary.until(Ready, count=2)).worker
        assert [(worker.id, worker.slot) for worker in (victim, replacement)] == [(1, 0), (2, 0)]
        assert diary.all(Listening, replacement)[0].address == diary.all(Listening, victim)[0].address


async def test_hole_13_a_limit_of_starting(tmp_path):
    """Node waits for ever for a worker that never gets ready. A `Pool` reports it and gives up."""
    settings = Settings(exec=worker_script(tmp_path, IDLE))
    async with Pool(1, settings=settings, boot_timeout=0.3) as pool:
        with pytest.raises(BootError) as caught:
            await within(pool.wait())
    assert caught.value.report == "worker 1 was not ready within 0.3 s, and was killed"


# 6, 16, 19: addresses


async def test_hole_06_the_same_fixed_port_twice(tmp_path):
    """Under SCHED_NONE Node's second `listen` on a fixed port kills the worker. Here it raises EADDRINUSE, as
    in a lone process, and the worker serves on.
    """
    port = free_port()
    async with agents(tmp_path, policy="shared") as (_, worker):
        await worker.serve(port)
        for again in (
            "await asyncio.start_server(greet, '127.0.0.1', port)",
            "everycore.listen(('127.0.0.1', port))",
        ):
            assert (await worker.fails(again)).errno == errno.EADDRINUSE
        await (await Client.connect((LOCAL, port))).close()
        await worker.do("server.close()")
        await worker.serve(port)
        await (await Client.connect((LOCAL, port))).close()


async def test_hole_16_a_port_found_by_0_asked_for_by_its_number(tmp_path, policy):
    """Node's second worker gets EADDRINUSE. Here both serve the one listener."""
    async with agents(tmp_path, 2, policy=policy) as (cluster, first, second):
        port = await first.serve()
        assert await second.serve(port) == port
        assert [listener.workers for listener in cluster.snapshot().listeners] == [(first.id, second.id)]
        seen: set[int | None] = set()
        async with closing([]) as clients:
            while len(seen) < 2:
                clients.append(await within(Client.connect((LOCAL, port))))
                seen.add(clients[-1].worker)
        assert seen == {first.id, second.id}


@pytest.mark.parametrize("host", [LOCAL, "0.0.0.0", "::", "192.0.2.1"])
async def test_hole_19_errors_say_what_they_say_alone(tmp_path, policy, host):
    """Node's worker reports `bind EADDRINUSE null:8000`. Here it is a lone process's text."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server(("" if family == socket.AF_INET else "::", 0), family=family) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=host) as alone:
            await asyncio.start_server(lambda *_: None, host, port)
        async with agents(tmp_path, policy=policy) as (_, worker):
            raised = await worker.fails("await asyncio.start_server(greet, host, port)", host=host, port=port)
            if alone.value.errno is None:  # asyncio of Python 3.13, for an address that this machine lacks
                assert raised.errno == errno.EADDRNOTAVAIL
                assert f"{(host, port)}: {os.strerror(raised.errno).lower()}" in raised.text
            else:  # the text then has the number twice
                text = str(alone.value).replace(f": [errno {raised.errno}] ", ": ")
                assert (raised.errno, raised.text) == (alone.value.errno, text)
            with pytest.raises(OSError, match=host) as alone:
                everycore.listen((host, port))
            raised = await worker.fails("everycore.listen((host, port))", host=host, port=port)
            assert (raised.errno, raised.text) == (alone.value.errno, str(alone.value))


# 17: a socket passed explicitly


@both_loops
@pytest.mark.parametrize("whose", ["its own", "the primary's"])
async def test_hole_17_a_unix_socket_passed_explicitly(tmp_path, whose, loop):
    """Node takes a pipe passed to `listen` for a number, and asks the primary for the primary's descriptor of
    that number. Here a socket passed explicitly is used as it is.
    """
    path = str(tmp_path / "s")
    make = "mine = socket.socket(socket.AF_UNIX); mine.bind(path); mine.listen()"
    async with servers(tmp_path, 1, loop=loop) as (cluster, (one,), _):
        before = cluster.snapshot().listeners
        if whose == "its own":
            await one.do(make, path=path)
        else:
            mine = socket.socket(socket.AF_UNIX)
            mine.bind(path)
            mine.listen()
            await one.do("mine = handle", handle=mine)
        with socket.socket() as bound:
            bound.bind((LOCAL, 0))
            # A number that both processes have: here that of a socket that could listen.
            with socket.socket(fileno=fcntl.fcntl(bound, fcntl.F_DUPFD_CLOEXEC, 300)) as same:
                await one.do(
                    "os.dup2(mine.fileno(), number); mine.close(); mine = socket.socket(fileno=number)\n"
                    "other = await asyncio.start_unix_server(greet, sock=mine)",
                    number=same.fileno(),
                )
            async with closing([await Client.connect(path)]) as clients:
                assert (clients[0].worker, await clients[0].echo()) == (one.id, "hello")
            assert cluster.snapshot().listeners == before
            assert await is_refused(bound.getsockname())
