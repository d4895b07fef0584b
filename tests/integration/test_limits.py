"""`limit_connections`: a worker takes its limit and no more, and no connection is lost or sent repeatedly."""

import asyncio
import socket

import pytest

from everycore import Cluster, Ready, Settings
from tests.kit import Program, turn
from tests.kit.crowds import agents, both_loops, each_once, servers
from tests.kit.traffic import Client, acknowledged, closing
from tests.kit.workers import Diary, eventually, program, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]


async def limit(agent, most, **more):
    await agent.do("everycore.limit_connections(server, most)", most=most, **more)


async def opened(address, count, clients):
    """Open `count` more connections, whether or not a worker answers."""
    fresh = [await Client.open(address) for _ in range(count)]
    clients += fresh
    return fresh


async def at_once(address, count, clients):
    """As `opened`, while the primary, which is this process, does nothing, so that they come as a burst."""
    socks = [socket.create_connection(address) for _ in range(count)]
    fresh = [Client(*await asyncio.open_connection(sock=sock)) for sock in socks]
    clients += fresh
    return fresh


@each_once
class TestOneIsFull:
    async def test_the_others_get_what_is_too_much_for_it(self, tmp_path, policy, loop):
        async with servers(tmp_path, 3, policy=policy, loop=loop) as (_, workers, address):
            none, one, many = workers
            await limit(none, 0)
            await limit(one, 1)
            await limit(many, 9)
            async with closing([]) as clients:
                answers = [await client.greeting() for client in await opened(address, 10, clients)]
                assert sorted(answers) == [one.id] + [many.id] * 9

    async def test_it_can_be_set_before_the_server_serves(self, tmp_path, policy, loop):
        async with agents(tmp_path, policy=policy, loop=loop) as (_, one):
            await one.do(
                "server = await asyncio.start_server(greet, '127.0.0.1', 0, start_serving=False)\n"
                "everycore.limit_connections(server, 1)\n"
                "await server.start_serving()"
            )
            address = tuple(await one.get("server.sockets[0].getsockname()"))
            async with closing([]) as clients:
                first, second = await opened(address, 2, clients)
                assert await first.greeting() == one.id
                assert second.worker is None
                await first.close()
                assert await second.greeting() == one.id

    async def test_it_takes_one_again_when_one_ends(self, tmp_path, policy, loop):
        async with servers(tmp_path, 1, policy=policy, loop=loop) as (_, (one,), address):
            await limit(one, 2)
            async with closing([]) as clients:
                first, _ = [await Client.connect(address) for _ in range(2)]
                clients += [first, _]
                third, fourth = await opened(address, 2, clients)
                assert third.worker is fourth.worker is None
                await first.close()
                assert await third.greeting() == one.id
                await third.close()
                assert await fourth.greeting() == one.id
                assert await fourth.echo() == "hello"

    async def test_a_higher_limit_or_none_admits_waiting_connections(self, tmp_path, policy, loop):
        async with servers(tmp_path, 1, policy=policy, loop=loop) as (_, (one,), address):
            await limit(one, 0)
            async with closing([]) as clients:
                waiting = await opened(address, 4, clients)
                await limit(one, 1)
                # The clients that connected first.
                assert await waiting[0].greeting() == one.id
                await limit(one, None)
                assert [await client.greeting() for client in waiting[1:]] == [one.id] * 3

    async def test_beyond_the_limit_it_may_close_them_itself(self, tmp_path, policy, loop):
        async with servers(tmp_path, 1, policy=policy, loop=loop) as (_, (one,), address):
            await one.do("dropped = []; everycore.limit_connections(server, 1, on_drop=dropped.append)")
            async with closing([]) as clients:
                clients.append(await Client.connect(address))
                (second,) = await opened(address, 1, clients)
                peer = list(second.writer.get_extra_info("sockname"))
                assert await second.ended() == b""
                assert await one.get("dropped") == [peer]
                await clients[0].close()
                await one.do("while server.connection_limit.open: await asyncio.sleep(0)")
                clients.append(await Client.connect(address))

    async def test_what_on_drop_raises_does_no_harm(self, tmp_path, policy, loop):
        source = """
        async def greet(reader, writer):
            writer.write(b"hello\\n")

        async def main():
            server = await asyncio.start_server(greet, "127.0.0.1", 0)
            everycore.limit_connections(server, 0, on_drop=lambda peer: 1 / 0)
            say("serves")
            await server.serve_forever()

        everycore.run(main(), loop=os.environ["LOOP"])
        """
        script = worker_script(tmp_path, source)
        settings = Settings(exec=script, env={"LOOP": loop}, silent=True)
        async with Cluster(settings, policy=policy) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await diary.until(Ready)
            (listener,) = cluster.snapshot().listeners
            for _ in range(2):
                client = await Client.open(listener.address)
                assert await client.ended() == b""
                await client.close()
            worker.disconnect()
            assert worker.stderr is not None
            assert (await within(worker.stderr.read())).count(b"ZeroDivisionError: ") == 2


EARLY = """
async def greet(reader, writer):
    writer.write(b"hello\\n")
    writer.close()

async def main():
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    everycore.limit_connections(server, 1)
    await server.serve_forever()

everycore.run(main(), loop=os.environ["LOOP"])
"""


@each_once
async def test_a_client_that_comes_the_moment_it_is_ready_is_served_and_so_is_the_next(
    tmp_path, policy, loop
):
    settings = Settings(exec=worker_script(tmp_path, EARLY), env={"LOOP": loop})
    async with Cluster(settings, policy=policy) as cluster:
        diary = Diary(cluster)
        cluster.fork()
        await diary.until(Ready)
        address = cluster.snapshot().listeners[0].address
        socks = [socket.create_connection(address) for _ in range(4)]
        async with closing([Client(*await asyncio.open_connection(sock=sock)) for sock in socks]) as clients:
            assert [await client.ended() for client in clients] == [b"hello\n"] * 4
            (after,) = await opened(address, 1, clients)
            assert await after.ended() == b"hello\n"


@both_loops
async def test_none_is_sent_to_a_worker_that_has_no_room(tmp_path, loop):
    """60 come at once, to two workers with room for one each: every one is handed over once."""
    async with servers(tmp_path, 2, policy="round_robin", loop=loop, recall_after=3600.0) as (
        cluster,
        workers,
        address,
    ):
        for worker in workers:
            await limit(worker, 1)
        await turn(3)
        async with closing([]) as clients:
            for client in await at_once(address, 60, clients):
                await client.greeting()
                await client.close()
        assert sum(worker.handed_over for worker in cluster.snapshot().workers) == 60


@both_loops
async def test_a_burst_that_is_too_much_goes_back_and_on_to_others(tmp_path, loop):
    """The surplus of one message is given back, and the others get it in their turn."""
    async with servers(tmp_path, 2, loop=loop, recall_after=3600.0) as (_, (one, two), address):
        await limit(one, 1)
        async with closing([]) as clients:
            fresh = await at_once(address, 12, clients)
            answers = [await client.greeting() for client in fresh]
        assert sorted(answers) == [one.id] + [two.id] * 11


@each_once
async def test_a_server_closed_in_the_middle_of_a_batch_loses_no_other_connection(tmp_path, policy, loop):
    """Its factory closes it at the first connection of a batch: the rest goes back, or stays there."""
    source = """
class Last(asyncio.Protocol):
    def __init__(self):
        server.close()

    def connection_made(self, transport):
        transport.write(b"%d\\n" % ID)

server = await asyncio.get_running_loop().create_server(Last, *address)
"""
    noted = """
problems = []
asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["message"]))
"""
    settings = {"policy": policy, "loop": loop, "recall_after": 3600.0}
    async with servers(tmp_path, 2, **settings) as (_, (one, two), address):
        await one.do("server.close()")
        await one.do(noted)
        await one.listens(source, address=list(address))
        async with closing([]) as clients:
            async with two.standing_still():  # else it may take all of them
                fresh = await at_once(address, 12, clients)
                await one.do("while server.is_serving(): await asyncio.sleep(0)")
            answers = [await within(client.reader.readline()) for client in fresh]
        others = [answer for answer in answers if answer == b"%d\n" % two.id]
        # asyncio refuses a transport to a closed server, uvloop does not: so it is without a cluster.
        assert len(others) == 11
        assert sorted(set(answers) - set(others)) in ([b""], [b"%d\n" % one.id])
        assert set(await one.get("problems")) <= {"Error on transport creation for incoming connection"}


async def test_the_primary_hears_it_once_and_offers_nothing_more(tmp_path):
    """Node's primary sends the waiting connection again and again, thousands of times a second."""
    async with servers(tmp_path, 1) as (cluster, (one,), address):
        await limit(one, 1)
        async with closing([]) as clients:
            clients.append(await Client.connect(address))
            await acknowledged(cluster)
            await opened(address, 1, clients)
            for _ in range(200):  # so many turns of both loops
                assert await clients[0].echo() == "hello"
            (worker,) = cluster.snapshot().workers
            assert (worker.handed_over, worker.outstanding, worker.open) == (1, 0, 1)


@both_loops
async def test_what_can_not_be_limited(tmp_path, loop):
    async with agents(tmp_path, 1, loop=loop) as (_, one):
        await one.do("server = await asyncio.start_server(greet, '127.0.0.1', 0)")
        assert (await one.fails("everycore.limit_connections(server, -1)")).classes[0] == "ConfigurationError"
        assert (await one.fails("everycore.limit_connections(server, 1.5)")).classes[
            0
        ] == "ConfigurationError"
        raised = await one.fails("everycore.limit_connections(server, 1, on_drop=perform)")
        assert raised.classes[0] == "TypeError"
        raised = await one.fails("everycore.limit_connections(object(), 1)")
        assert "listens through the primary, not object" in raised.text
        await one.do("server.close()")


def test_a_lone_process_has_no_limit(start_program):
    lone: Program = start_program(
        program(
            """
            async def main():
                server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
                try:
                    everycore.limit_connections(server, 1)
                except TypeError as error:
                    say(error)
                server.close()

            everycore.run(main())
            """
        )
    )
    lone.expect("takes a server that listens through the primary, not Server")
    assert lone.wait() == 0


async def test_a_worker_leaves_although_it_is_full(tmp_path):
    async with servers(tmp_path, 1, grace=20) as (_, (one,), address):
        await limit(one, 1)
        client = await Client.connect(address)
        waiting = await Client.open(address)
        one.worker.disconnect()
        await eventually(lambda: one.worker.exited_voluntarily, turn)
        assert await client.echo("still") == "still"
        await client.close()
        assert (await within(one.worker.wait())).code == 0
        await waiting.close()
