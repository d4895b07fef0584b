"""Floods, recalls and lack of descriptors: connections that were not picked up are not lost."""

import array
import asyncio
import errno
import resource
import socket
from collections import Counter

import pytest

from tests.kit import turn
from tests.kit.crowds import (
    COUNTED,
    agents,
    ask,
    both_loops,
    both_policies,
    burst,
    each_once,
    serve_by,
    servers,
    until_all_answer,
)
from tests.kit.traffic import Client, closing, none_open
from tests.kit.trouble import descriptor_limit, no_descriptors, ordinary_user
from tests.kit.workers import within

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]


class TestFloods:
    @each_once
    @pytest.mark.parametrize(
        "count",
        [500, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.limit(300)])],
    )
    async def test_bursts_against_slow_workers(self, tmp_path, policy, loop, count):
        """None is lost, stuck or served twice: a handler blocks for a millisecond, in bursts of 250."""
        async with agents(tmp_path, 4, policy=policy, loop=loop) as (_, *workers):
            source = """
async def slow(reader, writer):
    __import__("time").sleep(0.001)
    await counted(reader, writer)
"""
            address = await serve_by(workers, "slow", COUNTED + source)
            tally: Counter[int] = Counter()
            for _ in range(count // 250):
                await within(burst(address, 250, tally), 30)
            assert sum(tally.values()) == count
            assert [await worker.get("served") for worker in workers] == [
                tally[worker.id] for worker in workers
            ]

    @each_once
    async def test_clients_that_never_speak(self, tmp_path, policy, loop):
        """They are served like any others: only their own handler waits."""
        async with servers(tmp_path, 2, policy=policy, loop=loop, grace=0.2) as (cluster, workers, address):
            async with closing([]) as silent:
                for _ in range(100):
                    silent.append(await Client.open(address))
                assert {await client.greeting() for client in silent} <= {worker.id for worker in workers}
                assert set(await burst(address, 20)) <= {worker.id for worker in workers}
                assert await silent[0].echo("I do") == "I do"
                # They hold up a departure for the grace, and no longer.
                await within(cluster.disconnect())
                assert {await client.ended() for client in silent} == {b""}
                for worker in workers:
                    assert (await worker.worker.wait()).code == 0

    @each_once
    async def test_clients_that_leave_before_they_are_picked_up(self, tmp_path, policy, loop):
        async with servers(tmp_path, 2, policy=policy, loop=loop) as (_, (one, two), address):
            async with one.standing_still(), two.standing_still():
                for _ in range(50):
                    with socket.create_connection(address) as gone:
                        linger = array.array("i", [1, 0]).tobytes()
                        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                stayed = asyncio.create_task(ask(address))
                await turn(5)
            assert await within(stayed) in (one.id, two.id)
            assert set(await burst(address, 20)) <= {one.id, two.id}
            for worker in (one, two):
                await none_open([worker])


class TestRecall:
    """The primary takes a connection back from a belt while the worker reads it: exactly one gets it."""

    @pytest.mark.race
    @both_loops
    @pytest.mark.parametrize("recall_after", [0.0, 0.001])
    @pytest.mark.parametrize(
        "count", [1000, pytest.param(20_000, marks=[pytest.mark.soak, pytest.mark.limit(300)])]
    )
    async def test_none_lost_and_none_answered_twice(self, tmp_path, recall_after, count, loop):
        async with agents(tmp_path, 3, policy="round_robin", recall_after=recall_after, loop=loop) as (
            _,
            *workers,
        ):
            source = """
async def uneven(reader, writer):
    if served % 7 == 0:
        __import__("time").sleep(0.003)
    await counted(reader, writer)
"""
            address = await serve_by(workers, "uneven", COUNTED + source)
            tally: Counter[int] = Counter()

            async def load():
                for _ in range(count // 40):
                    await ask(address, tally)

            await within(asyncio.gather(*(load() for _ in range(40))), 200)
            assert sum(tally.values()) == count
            assert [await worker.get("served") for worker in workers] == [
                tally[worker.id] for worker in workers
            ]
            # No worker is believed to have what it has not: all take part.
            await until_all_answer(address, [worker.id for worker in workers])

    @pytest.mark.race
    async def test_a_plain_accept_that_finds_it_gone(self, tmp_path):
        """An unmodified program: readiness may be false, since another worker got it. It goes on."""
        source = """
import selectors

def run():
    me_too = everycore.listen(("127.0.0.1", port))
    me_too.setblocking(False)
    names.append(me_too.getsockname()[1])
    with selectors.DefaultSelector() as selector:
        selector.register(me_too, selectors.EVENT_READ)
        listening.set()
        while True:
            selector.select()
            if served % 5 == 0:
                __import__("time").sleep(0.003)
            try:
                conn, _ = me_too.accept()
            except BlockingIOError:
                continue
            serve(conn)

def serve(conn):
    global served
    served += 1
    with conn:
        conn.setblocking(True)
        conn.sendall(b"%d\\n" % ID)
        while data := conn.recv(100):
            conn.sendall(data)

served, names, listening = 0, [], threading.Event()
threading.Thread(target=run, daemon=True).start()
listening.wait()
port = names[0]
"""
        async with agents(tmp_path, 2, policy="round_robin", recall_after=0.001) as (_, one, two):
            await one.do(source, port=0)
            address = ("127.0.0.1", await one.get("port"))
            await two.do(source, port=address[1])
            tally: Counter[int] = Counter()

            async def load():
                for _ in range(50):
                    await ask(address, tally)

            await within(asyncio.gather(*(load() for _ in range(20))), 30)
            assert sum(tally.values()) == 1000
            assert [await worker.get("served") for worker in (one, two)] == [tally[one.id], tally[two.id]]


class TestTooManyDescriptorsInFlight:
    async def test_belts_that_take_nothing_are_tried_again(self, tmp_path):
        """ETOOMANYREFS (unix(7)): the descriptors of a user in flight are limited."""
        async with servers(tmp_path, 2, policy="round_robin") as (_, workers, address):
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            limit = min(soft, 600)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ordinary_user(), descriptor_limit(limit), ours, theirs:
                ours.setblocking(False)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                with pytest.raises(OSError) as caught:
                    for _ in range(limit):
                        socket.send_fds(ours, [b"x"], [0] * 16)
                assert caught.value.errno == errno.ETOOMANYREFS
                tally: Counter[int] = Counter()
                asking = [asyncio.create_task(ask(address, tally)) for _ in range(20)]
                opened = await Client.open(address)
                assert not tally
                theirs.close()
                ours.close()
                await within(asyncio.gather(*asking))
                assert sum(tally.values()) == 20
                assert await opened.greeting() in [worker.id for worker in workers]
                await opened.close()


class TestNoDescriptorLeft:
    """The kernel then drops what came with a message: the request is refused, without a violation."""

    BIND = """
from everycore.core import wire
sock = socket.socket()
inside.grants.bind(wire.Bind(["127.0.0.1", 0]), sock.fileno()).close()
"""

    @both_policies
    async def test_in_the_primary_a_bind_is_refused(self, tmp_path, policy):
        async with agents(tmp_path, 1, policy=policy) as (_, one):
            await one.do("pass")
            with no_descriptors():
                assert (await one.fails(self.BIND)).errno == errno.EMFILE
            await one.do(self.BIND)  # it has not lost its channel, and has descriptors again
            assert one.worker.is_connected()

    @both_policies
    async def test_in_the_worker_what_it_was_granted_is_given_up(self, tmp_path, policy):
        async with agents(tmp_path, 1, policy=policy) as (cluster, one):
            await one.do(
                "import resource\n"
                "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
                "lowest = os.dup(0)\n"
                "os.close(lowest)\n"
                "resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))"
            )
            assert (await one.fails("everycore.listen(('127.0.0.1', 0))")).errno == errno.EMFILE
            await one.do("resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))")
            assert [listener.workers for listener in cluster.snapshot().listeners] == []
            await one.do("everycore.listen(('127.0.0.1', 0)).close()")
            assert one.worker.is_connected()
