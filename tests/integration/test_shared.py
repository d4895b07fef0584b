"""The policy `shared`: the workers accept by themselves, in turn. The rules of `listen` hold too."""

import asyncio
import errno
import signal
import socket
from collections import Counter

import pytest

from everycore import Cluster, Listening, Ready, Settings
from tests.kit import open_fds, scaled
from tests.kit.crowds import (
    agents,
    ask,
    both_policies,
    burst,
    keep,
    one_loop,
    shared_agents,
    shared_servers,
    timed,
    until_all_answer,
)
from tests.kit.ports import free_port
from tests.kit.traffic import Client, close_all, closing, is_refused, none_open
from tests.kit.workers import PLAIN, Diary, eventually, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]

LOCAL = "127.0.0.1"


class TestBalance:
    @pytest.mark.limit(120)
    async def test_kept_connections_are_spread_evenly(self, tmp_path, loop):
        """400 over 8, one by one and in bursts, even when processors are short."""
        async with shared_servers(tmp_path, loop, 8) as (_, workers, address):
            for at_once in (1, 16, 64):
                async with closing([]) as clients:
                    tally = Counter(await keep(address, 400, clients, at_once=at_once))
                assert max(tally.values()) <= 1.1 * 50, (at_once, tally)
                await none_open(workers)

    @one_loop
    async def test_idle_workers_take_turns(self, tmp_path, loop):
        async with shared_servers(tmp_path, loop, 4) as (_, workers, address):
            async with closing([]) as clients:
                answered = await keep(address, 40, clients)
            tally = Counter(answered)
            assert set(tally) == {worker.id for worker in workers}
            assert max(tally.values()) <= 13

    async def test_the_board_is_level_when_all_have_left(self, tmp_path, loop):
        """The count is right however a connection ends."""
        async with shared_servers(tmp_path, loop, 2) as (cluster, workers, address):
            clients: list[Client] = []
            await keep(address, 40, clients)
            for client in clients[::2]:
                client.writer.transport.abort()
            await close_all(clients[1::2])
            await none_open(workers)
            assert [await worker.get("inside.board._cells[inside.board._at]") for worker in workers] == [0, 0]
            handed = [cluster.workers[worker.id]._driver.account()[0] for worker in workers]
            assert sum(handed) == 40


class TestListeners:
    async def test_several_do_not_mix(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 2) as (_, one, two):
            ports: list[list[int]] = []
            for worker in (one, two):
                ports.append([])
                for name in ("first", "second", "third"):
                    await worker.do(
                        f"""
async def {name}(reader, writer):
    writer.write(b"%d\\n{name}\\n" % ID)
    writer.close()

server_{name} = await asyncio.start_server({name}, "127.0.0.1", 0)
"""
                    )
                    ports[-1].append(await worker.get(f"server_{name}.sockets[0].getsockname()[1]"))
            assert ports[0] == ports[1]
            assert len(set(ports[0])) == 3
            for port, text in zip(ports[0], (b"first\n", b"second\n", b"third\n"), strict=True):
                answered: Counter[int] = Counter()
                for _ in range(20):
                    client = await Client.connect((LOCAL, port))
                    answered[client.worker or 0] += 1
                    assert await within(client.reader.read()) == text
                    await client.close()
                assert set(answered) <= {one.id, two.id}

    async def test_closing_one_leaves_the_others_and_the_other_worker(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 2) as (_, one, two):
            ports = []
            for worker in (one, two):
                await worker.do(
                    "servers = [await asyncio.start_server(greet, '127.0.0.1', 0) for _ in range(2)]"
                )
                ports = await worker.get("[server.sockets[0].getsockname()[1] for server in servers]")
            await one.do("servers[0].close()")
            await one.get("0")
            assert {await ask((LOCAL, ports[0])) for _ in range(10)} == {two.id}
            await until_all_answer((LOCAL, ports[1]), {one.id, two.id})
            await one.do("servers[0] = await asyncio.start_server(greet, '127.0.0.1', port)", port=ports[0])
            await until_all_answer((LOCAL, ports[0]), {one.id, two.id})

    async def test_the_last_one_closes_the_port_and_it_is_listened_on_again(self, tmp_path, loop):
        async with shared_servers(tmp_path, loop, 2) as (cluster, (one, two), address):
            for _ in range(3):
                await one.do("server.close()")
                await two.do("server.close()")
                await one.fails(
                    "await asyncio.open_connection('127.0.0.1', port)", port=address[1]
                )  # its own channel orders this behind the close
                assert await is_refused(address)
                assert not cluster.snapshot().listeners
                await one.serve(address[1])
                await two.serve(address[1])
                await until_all_answer(address, {one.id, two.id})

    @one_loop
    async def test_closing_one_leaves_the_others_balanced(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 4) as (_, *workers):
            port = 0
            for worker in workers:
                await worker.do(
                    "servers = [await asyncio.start_server(greet, '127.0.0.1', 0) for _ in range(2)]"
                )
                port = await worker.get("servers[1].sockets[0].getsockname()[1]")
            for worker in workers:
                await worker.do("servers[0].close()")
            async with closing([]) as clients:
                tally = Counter(await keep((LOCAL, port), 80, clients))
            assert len(tally) == 4
            assert max(tally.values()) <= 24

    async def test_opening_and_closing_leaves_no_descriptor(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 2) as (cluster, one, two):
            again = """
for _ in range(20):
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    server.close()
    await server.wait_closed()
    listener = everycore.listen(("127.0.0.1", 0))
    listener.close()
"""
            for worker in (one, two):
                await worker.do(again)
            before = open_fds(one.worker.pid), open_fds()
            await one.do(again)
            await two.get("0")
            assert set(open_fds(one.worker.pid)) == set(before[0])
            assert set(open_fds()) == set(before[1])
            assert not cluster.snapshot().listeners

    @one_loop
    async def test_a_server_that_is_bound_and_not_started_gets_no_connection(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 2) as (_, one, two):
            port = await one.serve()
            await two.do(
                "server = await asyncio.start_server(greet, '127.0.0.1', port, start_serving=False)",
                port=port,
            )
            assert {await ask((LOCAL, port)) for _ in range(10)} == {one.id}
            await two.do("await server.start_serving()")
            await until_all_answer((LOCAL, port), {one.id, two.id})

    async def test_it_is_a_listening_socket_to_its_program(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop) as (cluster, one):
            diary = Diary(cluster)
            port = await one.serve()
            await one.do("listener = server.sockets[0]")
            assert await one.get("listener.getsockname()") == [LOCAL, port]
            assert await one.get("[listener.family.name, listener.type.name]") == ["AF_INET", "SOCK_STREAM"]
            assert await one.get("listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)") == 1
            assert (await diary.until(Listening)).address == (LOCAL, port)
            assert cluster.snapshot().listeners[0].policy == "shared"

    @one_loop
    async def test_a_second_listen_on_a_fixed_port_is_in_use(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop) as (_, one):
            port = await one.serve()
            error = await one.fails("everycore.listen(('127.0.0.1', port))", port=port)
            assert error.errno == errno.EADDRINUSE

    @one_loop
    async def test_a_listener_of_the_primary_by_its_descriptor(self, tmp_path, loop):
        with socket.create_server((LOCAL, 0)) as given:
            async with shared_agents(tmp_path, loop, 2) as (_, one, two):
                for worker in (one, two):
                    await worker.do(
                        "server = await asyncio.start_server(greet, sock=everycore.listen(fd=fd))",
                        fd=given.fileno(),
                    )
                await until_all_answer(given.getsockname(), {one.id, two.id})

    @one_loop
    async def test_ipv6(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 2) as (_, one, two):
            port = await one.serve(host="::1")
            await two.serve(port, host="::1")
            await until_all_answer(("::1", port), {one.id, two.id})


class TestReadiness:
    async def test_a_worker_that_holds_ready_gets_no_connection_until_it_says_so(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 2) as (cluster, one, two):
            diary = Diary(cluster)
            port = await one.serve()
            await two.do("me.hold_ready()")
            await two.serve(port)
            await two.get("0")
            assert {await ask((LOCAL, port)) for _ in range(20)} == {one.id}
            assert set(await burst((LOCAL, port), 20)) == {one.id}
            await two.do("me.ready()")
            await diary.until(Ready, two.worker)
            await until_all_answer((LOCAL, port), {one.id, two.id})

    @one_loop
    async def test_before_the_first_is_ready_connections_are_refused(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop) as (cluster, one):
            diary = Diary(cluster)
            await one.do("me.hold_ready()")
            port = await one.serve()
            assert await is_refused((LOCAL, port))
            assert await is_refused((LOCAL, port))
            await one.do("me.ready()")
            await diary.until(Ready, one.worker)
            assert (await timed((LOCAL, port)))[1] < scaled(1.0)

    @one_loop
    async def test_before_the_first_is_ready_connections_are_held(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, when_no_worker="hold") as (_, one):
            await one.do("me.hold_ready()")
            port = await one.serve()
            waiting = [asyncio.create_task(ask((LOCAL, port))) for _ in range(10)]
            client = await Client.open((LOCAL, port))
            await one.get("0")
            assert not any(task.done() for task in waiting)
            await one.do("me.ready()")
            assert await within(asyncio.gather(*waiting)) == [one.id] * 10
            assert await client.greeting() == one.id
            await client.close()

    async def test_when_the_last_one_dies_connections_are_refused_and_its_replacement_has_the_port(
        self, tmp_path, loop
    ):
        async with shared_servers(tmp_path, loop, 2) as (cluster, (one, two), address):
            for worker in (one, two):
                worker.worker.kill(signal.SIGKILL)
                await within(worker.worker.wait())
            assert await is_refused(address)
            with pytest.raises(OSError, match="in use"), socket.socket() as other:
                other.bind(address)
                other.listen()
            three = type(one)(cluster.fork())
            assert await within(three.serve(address[1])) == address[1]
            assert {await ask(address) for _ in range(5)} == {three.id}

    @one_loop
    async def test_refused_and_served_in_turns(self, tmp_path, loop):
        """The listener is suspended and resumed while a worker is there, but not ready."""
        async with shared_servers(tmp_path, loop, 1) as (cluster, (one,), address):
            for _ in range(3):
                two = type(one)(cluster.fork())
                await two.do("me.hold_ready()")
                await two.serve(address[1])
                one.worker.kill(signal.SIGKILL)
                await within(one.worker.wait())
                assert await is_refused(address)
                diary = Diary(cluster)
                await two.do("me.ready()")
                await diary.until(Ready, two.worker)
                answered, seconds = await timed(address)
                assert answered == two.id
                assert seconds < scaled(1.0)
                one = two

    @one_loop
    async def test_held_ones_are_refused_when_their_time_is_over(self, tmp_path, loop):
        async with shared_servers(tmp_path, loop, 1, when_no_worker="hold", hold_timeout=0.2) as (
            cluster,
            (one,),
            address,
        ):
            one.worker.kill(signal.SIGKILL)
            await within(one.worker.wait())
            client = await Client.open(address)  # held
            assert await client.ended() == b""  # and dropped
            await client.close()
            assert await is_refused(address)
            two = type(one)(cluster.fork())
            await within(two.serve(address[1]))
            assert await ask(address) == two.id


class TestLeaving:
    async def test_a_worker_that_leaves_gets_no_connection_and_finishes(self, tmp_path, loop):
        async with shared_servers(tmp_path, loop, 2, grace=20) as (_, (one, two), address):
            async with closing([]) as clients:
                await keep(address, 10, clients)
                mine = [client for client in clients if client.worker == one.id]
                assert mine
                one.worker.disconnect()
                await one.do("await asyncio.sleep(0)")  # it has learned of it before
                assert {await ask(address) for _ in range(10)} == {two.id}
                for client in mine:
                    assert await client.echo("still") == "still"
                    await client.close()
                assert (await within(one.worker.wait())).code == 0
                assert {await ask(address) for _ in range(10)} == {two.id}

    @pytest.mark.ci_only
    async def test_under_load_everybody_is_answered(self, tmp_path, loop):
        """A departure loses no connection, though the worker was in the queue a moment ago."""
        async with shared_servers(tmp_path, loop, 2) as (cluster, workers, address):
            over = False
            tally: Counter[int] = Counter()

            async def load():
                while not over:
                    await ask(address, tally)

            loads = [asyncio.create_task(load()) for _ in range(8)]
            for _ in range(3):
                leaver = workers.pop(0)
                workers.append(type(leaver)(cluster.fork()))
                await within(workers[-1].serve(address[1]))
                leaver.worker.disconnect()
                assert (await within(leaver.worker.wait())).code == 0
            over = True
            await within(asyncio.gather(*loads))
            assert len(tally) >= 4

    async def test_a_plain_program_that_leaves_gets_no_connection_and_finishes(self, tmp_path):
        """Without everycore's loop: threads in a blocking `accept` on a listener that the other serves."""
        source = (
            """
ID = everycore.current_worker().id
"""
            + PLAIN
            + """
serve_plainly(int(os.environ["PORT"]))
threading.Event().wait()
"""
        )
        port = free_port()
        script = worker_script(tmp_path, source)
        async with Cluster(
            Settings(exec=script, env={"PORT": str(port)}), policy="shared", grace=20
        ) as cluster:
            diary = Diary(cluster)
            one, two = cluster.fork(), cluster.fork()
            await diary.until(Ready, count=2)
            async with closing([]) as clients:
                while one.id not in await keep((LOCAL, port), 10, clients):
                    pass
                mine = [client for client in clients if client.worker == one.id]
                one.disconnect()
                await eventually(lambda: one.exited_voluntarily, lambda: ask((LOCAL, port)))
                answered = {await ask((LOCAL, port)) for _ in range(30)}
                answered |= set(await burst((LOCAL, port), 30))
                assert answered == {two.id}
                for client in mine:
                    assert await client.echo("still") == "still"
                    await client.close()
                assert (await within(one.wait())).code == 0

    @both_policies
    async def test_what_a_thread_accepted_beside_the_loop_may_finish(self, tmp_path, policy, loop):
        async with agents(tmp_path, 1, policy=policy, loop=loop, grace=20) as (_, one):
            await one.do(PLAIN)
            client = await Client.connect((LOCAL, await one.get("serve_plainly()")))
            one.worker.disconnect()
            await one.do("await asyncio.sleep(0)")
            for _ in range(3):
                assert await client.echo("still") == "still"
                await one.get("0")
            await client.close()
            assert (await within(one.worker.wait())).code == 0


async def test_one_that_shuts_it_down_stops_the_others_until_it_ends(tmp_path, loop, caplog):
    """By a call of C, as some servers do at their end: nothing of ours can keep it from that."""
    async with shared_servers(tmp_path, loop, 2) as (_, (one, two), address):
        await one.do(
            "with socket.socket(fileno=os.dup(server.sockets[0].fileno())) as its:\n"
            "    its.shutdown(socket.SHUT_RDWR)"
        )
        assert await is_refused(address)
        one.worker.kill()
        await within(one.worker.wait())
        client = await Client.connect(address)
        assert client.worker == two.id
        await client.close()
        assert "a worker had shut down the listener; it listens again" in caplog.text
