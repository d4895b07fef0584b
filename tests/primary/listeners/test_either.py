"""Policy `shared` for programs: some workers take turns at the listener, others are handed connections."""

import asyncio

import pytest

from everycore.core import wire
from everycore.core.dispatch import Dispatcher
from everycore.primary.listeners.distributor import Distributor
from everycore.primary.listeners.either import EitherDistribution
from everycore.primary.listeners.shared import SharedDistribution
from everycore.system.wakeups import is_readable
from tests.kit.stage import stage


def either(loop, sock):
    return EitherDistribution(SharedDistribution(loop, sock), Distributor(loop, sock, Dispatcher()))


async def test_a_plain_accept_is_handed_connections_one_after_the_other():
    async with stage(distribution=either) as it:
        one, two = await it.worker(1, batch=1), await it.worker(2, batch=1)
        await it.connect(4)
        belts = it.on_belts()
        assert [len(belts[number]) for number in (1, 2)] == [2, 2]
        one.ack()
        two.ack()
        await it.settled()
        assert [it.distribution.account(number) for number in (1, 2)] == [(2, 0), (2, 0)]


async def test_nothing_is_accepted_for_those_that_accept_by_themselves():
    async with stage(distribution=either) as it:
        only = await it.worker(1, batch=0)
        only.say(wire.Serve(16, shares=True))
        await it.connect(2)
        assert is_readable(it.socket.sock.fileno())
        assert it.on_belts() == {1: []}
        assert it.distribution.accepted == 0


async def test_one_that_rests_is_told_so_on_its_belt_and_one_that_is_handed_to_is_not():
    async with stage(distribution=either) as it:
        sharing, handed = await it.worker(1, batch=0), await it.worker(2, batch=1)
        sharing.say(wire.Serve(16, shares=True))
        await it.settled()
        it.listener.rest(1, finishes=False)
        it.listener.rest(2, finishes=False)
        assert is_readable(sharing.end.fileno())
        assert not is_readable(handed.end.fileno())


async def test_what_one_that_left_had_not_picked_up_goes_to_the_next():
    async with stage(distribution=either) as it:
        await it.worker(1, batch=1)
        ports = await it.connect(2)
        await it.worker(2, batch=1)
        it.listener.remove(1)
        await it.settled()
        assert it.workers[2].take_all() == ports


async def test_a_worker_that_takes_turns_says_nothing_of_connections():
    async with stage(distribution=either) as it:
        only = await it.worker(1, batch=0)
        only.say(wire.Serve(16, shares=True))
        only.say(wire.Acked(1))
        await it.settled()
        assert ("violated", 1, "Acked on the belt of a shared listener") in it.events


@pytest.mark.parametrize("shares", [False, True])
async def test_a_stop_lets_connections_that_have_come_be_served(shares):
    async with stage(distribution=either) as it:
        only = await it.worker(1, batch=0)
        only.say(wire.Serve(1, shares=shares))
        ports = await it.connect(2)
        ended: list[str] = []
        it.distribution.shut(lambda: ended.append("shut"))
        await it.settled()
        assert ended == []
        if shares:
            for _ in ports:
                it.socket.sock.accept()[0].close()
            await asyncio.get_running_loop().pass_time(0.1)  # type: ignore[attr-defined]
        else:
            assert only.take_all() == ports
            only.ack()
            await it.settled()
        assert ended == ["shut"]
        assert not it.socket.is_listening


async def test_a_worker_that_leaves_after_a_stop_causes_no_further_accept():
    async with stage(distribution=either) as it:
        for number in (1, 2):
            await it.worker(number, batch=1)
        it.distribution.shut(lambda: None)
        await it.settled()
        it.socket.sock.close()  # as for a unix socket, once every connection is served
        it.listener.rest(1, finishes=False)
        assert it.listener.subscribers == [1, 2]
