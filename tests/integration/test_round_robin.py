"""Round robin over belts: turns, and that no fault of a worker or the primary loses a connection."""

import asyncio
import collections
import contextlib
import os
import resource
import signal

import pytest

from everycore import Exited
from tests.kit import open_fds, wait_gone
from tests.kit.traffic import (
    RECALL,
    Agent,
    Client,
    acknowledged,
    agents,
    closing,
    connect_at_once,
    greetings,
    is_refused,
    none_open,
    one_by_one,
    servers,
    until_on_belt,
)
from tests.kit.workers import within

pytestmark = [pytest.mark.slow, pytest.mark.limit(45)]

LOCAL = "127.0.0.1"


# Whose turn it is


async def test_strictly_in_turn_in_the_order_of_joining(tmp_path):
    async with servers(tmp_path, 3) as (cluster, workers, address):
        async with closing(await one_by_one(cluster, [address] * 12)) as clients:
            assert [client.worker for client in clients] == [worker.id for worker in workers] * 4
            assert [one.handed_over for one in cluster.snapshot().workers] == [4, 4, 4]
            assert cluster.snapshot().listeners[0].accepted == 12


async def test_kept_alive_connections_made_one_by_one_are_level(tmp_path):
    """400 over 8: 50 each."""
    async with servers(tmp_path, 8) as (cluster, _workers, address):
        async with closing(await one_by_one(cluster, [address] * 400)) as clients:
            shares = collections.Counter(client.worker for client in clients)
            assert sorted(shares.values()) == [50] * 8


#: A client in a separate process, so that the primary does not do its work: keeps 400 connections.
CROWD = """
import collections, selectors, socket, sys

port, *sizes = map(int, sys.argv[1:])
for size in sizes:
    clients, answers = [], []
    while len(clients) < 400:
        burst = [socket.socket() for _ in range(min(size, 400 - len(clients)))]
        with selectors.DefaultSelector() as selector:
            for sock in burst:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
                selector.register(sock, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    answers.append(int(key.fileobj.recv(10)))
                    selector.unregister(key.fileobj)
        clients += burst
    print(size, *sorted(collections.Counter(answers).values()))
    for sock in clients:
        sock.close()
"""


async def test_bursts_are_answered_to_the_last(tmp_path, start_program):
    """How even they are depends on late workers, and so on the machine's other work: `bench` measures it.

    The exact bound, for prompt workers, is in tests/primary/listeners/test_distributor.py.
    """
    async with servers(tmp_path, 4, recall_after=RECALL) as (_, _workers, address):
        crowd = start_program(CROWD, str(address[1]), "1", "16", "64")
        assert await asyncio.to_thread(crowd.wait) == 0, crowd.stderr
        lines = [list(map(int, line.split())) for line in crowd.stdout.splitlines()]
        assert [(size, sum(shares)) for size, *shares in lines] == [(1, 400), (16, 400), (64, 400)]


async def test_a_newcomer_stands_at_the_end_of_the_row(tmp_path):
    async with servers(tmp_path, 2) as (cluster, workers, address), closing([]) as clients:
        clients += await one_by_one(cluster, [address] * 10)
        newcomer = Agent(cluster.fork())
        await newcomer.serve(address[1])
        later = await one_by_one(cluster, [address] * 9)
        clients += later
        order = [client.worker for client in later]
        assert collections.Counter(order) == {one.id: 3 for one in (*workers, newcomer)}


async def test_every_listener_has_a_turn_of_its_own(tmp_path):
    async with agents(tmp_path, 2) as (cluster, first, second), closing([]) as clients:
        ports = [await first.serve(), await first.serve()]
        for port in ports:
            await second.serve(port)
        clients += await one_by_one(cluster, [(LOCAL, port) for port in ports] * 4)
        assert [client.worker for client in clients] == [first.id] * 2 + [second.id] * 2 + [first.id] * 2 + [
            second.id
        ] * 2


async def test_a_silent_client_delays_no_other(tmp_path):
    async with servers(tmp_path, 2) as (cluster, workers, address):
        async with closing([await Client.open(address) for _ in range(8)]) as clients:
            await acknowledged(cluster)
            clients += await one_by_one(cluster, [address] * 12)  # more than a worker can be in arrears
            assert {client.worker for client in clients[8:]} == {worker.id for worker in workers}


# A worker that blocks


async def test_a_blocked_worker_strands_nothing(tmp_path):
    async with (
        servers(tmp_path, 2, recall_after=RECALL) as (_, (first, second), address),
        closing([]) as clients,
    ):
        async with first.standing_still():
            clients += await connect_at_once(address, 20)
            assert {client.worker for client in clients} == {second.id}
        while True:  # back again, as soon as it has acknowledged the probe
            clients.append(await Client.connect(address))
            if clients[-1].worker == first.id:
                break


async def test_a_stopped_process_strands_nothing(tmp_path):
    async with (
        servers(tmp_path, 3, recall_after=RECALL) as (_, (first, second, third), address),
        closing([]) as clients,
    ):
        first.worker.kill(signal.SIGSTOP)
        try:
            for _ in range(3):
                clients += await connect_at_once(address, 16)
            assert {client.worker for client in clients} == {second.id, third.id}
        finally:
            first.worker.kill(signal.SIGCONT)
        while True:
            clients.append(await Client.connect(address))
            if clients[-1].worker == first.id:
                break


async def test_with_all_blocked_connections_wait_for_the_first_free_worker(tmp_path):
    async with (
        servers(tmp_path, 2, recall_after=RECALL) as (_, (first, second), address),
        closing([]) as clients,
    ):
        async with first.standing_still(), second.standing_still() as let_go:
            clients += [await Client.open(address) for _ in range(20)]
            let_go()
            assert set(await greetings(clients)) == {second.id}
        assert await second.get("ID") == second.id


@pytest.mark.race
async def test_what_lies_with_a_blocked_worker_goes_to_one_that_is_free_later(tmp_path):
    """As many connections as there is credit: nothing but the other's freedom moves the primary."""
    async with (
        servers(tmp_path, 2, recall_after=RECALL) as (cluster, (first, second), address),
        closing([]) as clients,
    ):
        async with first.standing_still():
            async with second.standing_still():
                # At once: a worker that has one for long gets no other one.
                clients += await asyncio.gather(*(Client.open(address) for _ in range(4)))
                await until_on_belt(cluster, first, 2)
                await until_on_belt(cluster, second, 2)
                # Far beyond recall_after, without a worker that could take anything.
                await asyncio.sleep(0.1)  # noqa: TID251 - the time that passes is the subject
            assert await greetings(clients) == [second.id] * 4


# A worker that dies


async def test_before_a_hand_over(tmp_path):
    async with (
        servers(tmp_path, 2, recall_after=RECALL) as (_, (first, second), address),
        closing([]) as clients,
    ):
        first.worker.kill(signal.SIGKILL)  # and the primary does not know it yet
        clients += await connect_at_once(address, 16)
        assert {client.worker for client in clients} == {second.id}


async def test_with_connections_on_its_belt(tmp_path):
    """They were handed over, not picked up: others answer them. (Node loses them.)"""
    async with servers(tmp_path, 2) as (cluster, (first, second), address):
        async with closing([]) as clients:
            async with first.standing_still():
                clients += [await Client.open(address) for _ in range(4)]
                await until_on_belt(cluster, first)
                first.worker.kill(signal.SIGKILL)
                assert await greetings(clients) == [second.id] * 4


async def test_after_a_pick_up_the_connection_ends_with_the_worker_and_no_other(tmp_path):
    async with servers(tmp_path, 2) as (cluster, (first, second), address):
        async with closing(await one_by_one(cluster, [address] * 4)) as clients:
            first.worker.kill(signal.SIGKILL)
            for client in clients:
                if client.worker == first.id:
                    assert await client.ended() == b""
                else:
                    assert await client.echo() == "hello"
            assert [client.worker for client in clients].count(second.id) == 2


@pytest.mark.race
async def test_while_clients_connect(tmp_path):
    """Every client is answered, or was picked up by a worker that died: none hangs or is refused."""
    async with servers(tmp_path, 4, recall_after=RECALL) as (cluster, workers, address):
        exits = cluster.events(Exited)
        answers: list[int | None] = []

        async def connect_again_and_again():
            while len(cluster.workers) > 1:
                client = await Client.open(address)
                line = await within(_line(client))
                answers.append(int(line) if line else None)
                await client.close()

        crowd = [asyncio.create_task(connect_again_and_again()) for _ in range(16)]
        for victim in workers[:3]:
            seen = len(answers)
            while len(answers) < seen + 50:
                await asyncio.wait([asyncio.ensure_future(_one_answer(address, answers))])
            victim.worker.kill(signal.SIGKILL)
            await within(anext(exits))
        await within(asyncio.gather(*crowd))
        await exits.aclose()
        lost = answers.count(None)
        assert lost <= 3 * 16, f"{lost} of {len(answers)}"  # at most one batch a victim
        client = await Client.connect(address)
        assert client.worker == workers[3].id
        await client.close()


async def _one_answer(address, answers):
    client = await Client.open(address)
    line = await within(_line(client))
    answers.append(int(line) if line else None)
    await client.close()


async def _line(client):
    try:
        return await client.reader.readline()
    except ConnectionError:
        return b""


async def test_the_last_one_with_connections_on_its_belt_and_refuse(tmp_path):
    async with servers(tmp_path, 1) as (cluster, (only,), address):
        async with closing([]) as clients, only.standing_still():
            clients += [await Client.open(address) for _ in range(2)]
            await until_on_belt(cluster, only, 2)
            only.worker.kill(signal.SIGKILL)
            assert [await client.ended() for client in clients] == [b""] * 2
        assert await is_refused(address)


async def test_the_last_one_with_connections_on_its_belt_and_hold(tmp_path):
    async with servers(tmp_path, 1, when_no_worker="hold") as (cluster, (only,), address):
        async with closing([]) as clients, only.standing_still():
            clients += [await Client.open(address) for _ in range(2)]
            await until_on_belt(cluster, only, 2)
            clients += [await Client.open(address) for _ in range(2)]  # no credit: these stay in the backlog
            only.worker.kill(signal.SIGKILL)
            await within(only.worker.wait())
            clients += [await Client.open(address) for _ in range(2)]
            replacement = Agent(cluster.fork())
            assert await replacement.serve(address[1]) == address[1]
            assert await greetings(clients) == [replacement.id] * 6


# A worker that closes its server


async def test_what_lies_on_the_belt_of_a_closed_server_goes_to_others(tmp_path):
    async with servers(tmp_path, 2) as (cluster, (first, second), address):
        async with closing([]) as clients:
            async with first.standing_still(then="server.close()"):
                clients += [await Client.open(address) for _ in range(4)]
                await until_on_belt(cluster, first)
            assert await greetings(clients) == [second.id] * 4
        assert cluster.snapshot().listeners[0].workers == (second.id,)


async def test_what_lies_on_the_belt_of_a_leaving_worker_goes_to_others(tmp_path):
    async with servers(tmp_path, 2) as (cluster, (first, second), address):
        async with closing([]) as clients:
            async with first.standing_still():
                clients += [await Client.open(address) for _ in range(4)]
                await until_on_belt(cluster, first)
                first.worker.disconnect()
                assert await greetings(clients) == [second.id] * 4
            assert (await within(first.worker.wait())).code == 0


# For a long time


async def test_no_descriptor_stays_behind_after_two_thousand_connections(tmp_path):
    async with servers(tmp_path, 2) as (cluster, workers, address):

        async def some(number):
            for _ in range(number):
                await (await Client.connect(address)).close()

        await asyncio.gather(*(some(10) for _ in range(10)))
        await none_open(workers)
        processes = [os.getpid(), *(worker.worker.pid for worker in workers)]
        before = [len(open_fds(pid)) for pid in processes]
        await asyncio.gather(*(some(200) for _ in range(10)))
        await none_open(workers)
        assert [len(open_fds(pid)) for pid in processes] == before
        assert cluster.snapshot().listeners[0].accepted == 2100
        assert cluster.snapshot().listeners[0].queued == 0
        assert sum(one.handed_over for one in cluster.snapshot().workers) == 2100


async def test_when_the_primary_dies_no_process_serves_the_port_any_more(tmp_path, start_program):
    program = start_program(
        """
        import asyncio, everycore, os

        async def greet(reader, writer):
            writer.write(b"%d\\n" % os.getpid())
            await reader.read()
            writer.close()

        async def main():
            if everycore.is_primary:
                async with everycore.Cluster() as cluster:
                    cluster.on(everycore.Listening, lambda event: print("listening", event.address[1]))
                    for _ in range(2):
                        cluster.fork()
                    await asyncio.Event().wait()
            else:
                server = await asyncio.start_server(greet, "127.0.0.1", 0)
                await server.serve_forever()

        if __name__ == "__main__":
            everycore.run(main())
        """
    )
    program.expect("listening")
    port = int(program.expect(r"listening (\d+)")[1])
    async with closing([await Client.connect((LOCAL, port)) for _ in range(2)]) as clients:
        pids = [client.worker for client in clients if client.worker]
        assert len(set(pids)) == 2
        program.signal(signal.SIGKILL)
        assert wait_gone(pids, timeout=1.0) == []
        assert [await client.ended() for client in clients] == [b""] * 2
    assert await is_refused((LOCAL, port))
    assert program.wait() == -signal.SIGKILL


def test_the_limits_are_as_they_were():
    """The tests above that lower them restore them."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100
    with contextlib.suppress(PermissionError):
        assert os.geteuid() == os.getuid()
