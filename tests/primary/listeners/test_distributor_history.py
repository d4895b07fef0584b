"""The law, through random histories with real sockets."""

import random

import pytest

from everycore.core import wire
from everycore.core.lanes import LATE_AFTER, RECALL_AFTER
from tests.kit.stage import stage


@pytest.mark.parametrize("seed", range(20))
async def test_each_connection_is_somewhere_exactly_once_through_a_random_history(seed):
    """Queued, on a belt, picked up or given back: in the end every client was picked up once."""
    chance = random.Random(seed)
    async with stage(1, 2, 3, when_no_worker="hold", backlog=512) as it:
        alive = {1, 2, 3}
        newest = 3
        asked: list[int] = []
        got: list[int] = []
        for _ in range(120):
            act = chance.random()
            number = chance.choice(sorted(alive))
            worker = it.workers[number]
            if act < 0.35:
                asked += await it.connect(chance.randrange(1, 8))
            elif act < 0.65:
                if message := worker.take():
                    got += [peer[1] for peer in message[2]]
            elif act < 0.8:
                worker.ack()
            elif act < 0.9:
                await it.loop.pass_time(chance.choice([0.001, LATE_AFTER * 1.1, RECALL_AFTER * 1.1]))
            elif act < 0.93:
                worker.say(wire.Full())
                await it.settled()
                worker.serve(chance.choice([1, 16]))
            elif act < 0.96 and (message := worker.take()) and message[1]:
                first, socks, peers = message
                worker.give_back(first, socks[0], peers[0])
                got += [peer[1] for peer in peers[1:]]
            elif len(alive) > 1 or chance.random() < 0.5:
                alive.discard(number)
                it.listener.remove(number)
                newest += 1
                alive.add(newest)
                await it.worker(newest, batch=chance.choice([1, 16]))
            await it.settled()
            assert len(set(got)) == len(got)
        for _ in range(200):
            for number in alive:
                got += it.workers[number].take_all()
                it.workers[number].ack()
                it.workers[number].serve(16)
            await it.loop.pass_time(RECALL_AFTER * 1.1)
            if len(got) == len(asked):
                break
        assert sorted(got) == sorted(asked)
        assert it.distribution.queued == 0
        assert it.distribution.accepted == len(asked)
