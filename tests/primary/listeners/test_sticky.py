"""Each client goes to its own worker: real loop, real sockets, real belts."""

import socket

from everycore.core.sticky import STICKY_RECALL_AFTER, best
from tests.kit.stage import stage


def own(source, slots=3):
    """The worker of a client with that address."""
    return best(socket.inet_aton(source), range(slots)) + 1


SOURCES = [f"127.0.0.{number}" for number in range(1, 13)]


async def test_each_address_has_its_worker():
    assert {own(source) for source in SOURCES} == {1, 2, 3}
    async with stage(1, 2, 3, policy="sticky") as it:
        for source in SOURCES:
            ports = await it.connect(3, source)
            found = it.on_belts()
            assert found.pop(own(source)) == ports
            assert not any(found.values())
            it.workers[own(source)].ack()
            await it.settled()
        assert it.distribution.policy == "sticky"


async def test_a_worker_that_blocks_holds_only_its_own_clients_and_not_for_long():
    mine = next(source for source in SOURCES if own(source, 2) == 1)
    others = next(source for source in SOURCES if own(source, 2) == 2)
    async with stage(1, 2, policy="sticky") as it:
        held = await it.connect(20, mine)
        assert it.distribution.queued == 4
        passing = await it.connect(2, others)
        assert it.workers[2].take_all() == passing
        it.workers[2].ack()
        await it.loop.pass_time(STICKY_RECALL_AFTER * 1.1)
        found: list[int] = []
        for _ in range(4):
            found += it.workers[2].take_all()
            it.workers[2].ack()
            await it.settled()
        assert sorted(found) == sorted(held)


async def test_a_returned_connection_waits_for_its_own_worker_again():
    mine = next(source for source in SOURCES if own(source, 2) == 1)
    async with stage(1, 2, policy="sticky") as it:
        (port,) = await it.connect(1, mine)
        first, (sock,), (peer,) = it.workers[1].take()
        it.workers[1].give_back(first, sock, peer)
        await it.settled()
        assert it.on_belts() == {1: [port], 2: []}


async def test_a_worker_that_leaves_leaves_its_clients_to_the_next_and_its_successor_has_them():
    mine = next(source for source in SOURCES if own(source, 2) == 1)
    async with stage(1, 2, policy="sticky") as it:
        ports = await it.connect(2, mine)
        it.listener.remove(1)
        await it.settled()
        assert it.workers[2].take_all() == ports
        it.workers[2].ack()
        it.seats[3] = type(it.seats[1])(0)
        await it.worker(3)
        ports = await it.connect(2, mine)
        assert it.workers[3].take_all() == ports
