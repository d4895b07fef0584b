"""The primary takes back what lies too long on a belt."""

from everycore.core.lanes import RECALL_AFTER
from tests.kit.stage import stage


async def test_what_lies_too_long_is_recalled_and_a_probe_left():
    async with stage(1, 2) as it:
        ports = await it.connect(2)
        it.workers[2].take_all()
        it.workers[2].ack()
        await it.settled()
        await it.loop.pass_time(RECALL_AFTER * 1.5)
        assert it.workers[2].take_all() == [ports[0]]
        number, socks, peers = it.workers[1].take()
        assert (number, socks, peers) == (2, [], [])  # a probe, numbered as a connection
        assert it.workers[1].take() is None


async def test_a_stalled_worker_gets_nothing_before_it_acknowledges_the_probe():
    async with stage(1, 2) as it:
        await it.connect(2)
        it.workers[2].take_all()
        it.workers[2].ack()
        await it.settled()
        await it.loop.pass_time(RECALL_AFTER * 1.5)
        for _ in range(3):
            it.workers[2].take_all()
            it.workers[2].ack()
            await it.settled()
            await it.connect(1)
        assert it.workers[1].take()[1:] == ([], [])
        assert it.workers[1].take() is None
        it.workers[2].take_all()
        it.workers[2].ack()
        it.workers[1].ack()
        await it.settled()
        await it.connect(2)
        assert it.outstanding(1) >= 1


async def test_nothing_is_recalled_while_no_other_worker_has_room():
    async with stage(1, 2) as it:
        ports = await it.connect(4)
        await it.loop.pass_time(RECALL_AFTER * 5)
        assert it.on_belts() == {1: [ports[0], ports[2]], 2: [ports[1], ports[3]]}


async def test_what_could_not_be_recalled_is_recalled_when_a_worker_has_room():
    """All credit is out, the backlog is empty, all are overdue; then one worker acknowledges."""
    async with stage(1, 2) as it:
        ports = await it.connect(4)
        for _ in range(4):
            await it.loop.pass_time(RECALL_AFTER)
        it.workers[2].take_all()
        it.workers[2].ack()
        await it.settled()
        for _ in range(4):
            await it.loop.pass_time(RECALL_AFTER)
            it.workers[2].take_all()
            it.workers[2].ack()
            await it.settled()
        assert [sock.getpeername()[1] for sock in it.workers[2].taken] == [
            ports[1],
            ports[3],
            ports[0],
            ports[2],
        ]


async def test_what_a_worker_takes_while_it_is_recalled_is_one_of_the_two_alone():
    async with stage(1, 2) as it:
        ports = await it.connect(4)
        assert it.workers[1].take() is not None  # one of two: the other still lies there
        it.workers[2].take_all()
        it.workers[2].ack()
        await it.settled()
        await it.loop.pass_time(RECALL_AFTER * 1.5)
        everything = [sock.getpeername()[1] for sock in it.workers[1].taken]
        everything += [port for worker in it.workers.values() for port in worker.take_all()]
        assert sorted(everything) == sorted(ports[:1] + ports[2:3])
        it.workers[1].ack()
        await it.settled()
        assert it.outstanding(1) == 0
