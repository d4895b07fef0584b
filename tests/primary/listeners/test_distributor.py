"""How connections go out and come back: real loop, real sockets, real belts."""

import collections

import pytest

from everycore.core import wire
from everycore.core.lanes import COSTLY, LATE_AFTER, MOST_CREDIT
from tests.kit.stage import stage


async def test_connections_go_out_in_turn_and_carry_the_peers_address():
    async with stage(1, 2, 3) as it:
        ports = await it.connect(6)
        assert it.on_belts() == {1: [ports[0], ports[3]], 2: [ports[1], ports[4]], 3: [ports[2], ports[5]]}
        assert it.distribution.accepted == 6
        assert it.events == [("serving", 1), ("serving", 2), ("serving", 3)]


async def test_a_connection_belongs_to_the_worker_alone_once_it_is_on_the_belt():
    async with stage(1) as it:
        await it.connect()
        _, (conn,), _ = it.workers[1].take()
        conn.sendall(b"hello")
        assert it.clients[0].recv(10) == b"hello"
        conn.close()
        it.workers[1].taken.clear()
        assert it.clients[0].recv(10) == b""  # no other process held it open


async def test_a_burst_is_one_message_with_batches_and_many_without():
    async with stage() as it:
        await it.worker(1, batch=16)
        await it.worker(2, batch=1)
        for sock in it.workers.values():
            assert sock.take() is None
        await it.connect(4)
        first = [it.workers[1].take(), it.workers[1].take()]
        assert [message and (message[0], len(message[1])) for message in first] == [(1, 2), None]
        second = [it.workers[2].take() for _ in range(3)]
        assert [message and (message[0], len(message[1])) for message in second] == [(1, 1), (2, 1), None]


@pytest.mark.parametrize("size", [1, 16, 64])
async def test_bursts_over_prompt_workers_are_level(size):
    """400 over 8: 50 each, without the noise of a busy machine."""
    async with stage(*range(1, 9), backlog=512) as it:
        shares: collections.Counter[int] = collections.Counter()
        asked = 0
        while asked < 400:
            now = min(size, 400 - asked)
            asked += now
            await it.connect(now)
            while sum(shares.values()) < asked:
                for number, worker in it.workers.items():
                    if taken := worker.take_all():
                        shares[number] += len(taken)
                        worker.ack()
                await it.settled()
        assert max(shares.values()) == min(shares.values()) == 50


async def test_without_credit_connections_stay_in_the_kernels_backlog():
    async with stage(1, 2) as it:
        await it.connect(10)
        assert it.distribution.accepted == 4
        assert it.distribution.queued == 0
        assert [len(ports) for ports in it.on_belts().values()] == [2, 2]
        it.workers[2].ack()
        await it.settled()
        assert it.workers[1].take() is None
        assert it.workers[2].take_all()


async def test_a_listener_without_takers_is_not_polled():
    """A readable listener whose connections no worker can have would wake the loop for ever."""
    async with stage(1) as it:
        await it.connect(5)
        while it.distribution.accepted < 5:
            assert it.loop.remove_reader(it.socket.sock) is False
            it.workers[1].take_all()
            it.workers[1].ack()
            await it.settled()
        it.workers[1].take_all()
        it.workers[1].ack()
        await it.settled()
        assert it.loop.remove_reader(it.socket.sock) is True


async def test_credit_grows_with_demand_up_to_its_limit():
    async with stage(1, backlog=512) as it:
        await it.connect(200)
        most = 0
        for _ in range(20):
            most = max(most, it.outstanding(1))
            it.workers[1].take_all()
            it.workers[1].ack()
            await it.settled()
        assert most == MOST_CREDIT


async def test_where_connections_cost_much_they_go_out_one_by_one():
    async with stage(1, 2) as it:
        costly_once = False
        for cost in [int(COSTLY * 2e6)] * 60 + [int(COSTLY * 1e5)] * 60:
            was_costly = it.distribution.dispatcher.lanes.is_costly
            await it.connect(4)
            for worker in it.workers.values():
                _, socks, _ = worker.take()
                if was_costly:
                    assert len(socks) == 1
                worker.take_all()
                worker.ack(cost=cost)
            await it.settled()
            if cost > COSTLY * 1e6:
                costly_once = was_costly
        assert costly_once
        assert not it.distribution.dispatcher.lanes.is_costly


async def test_a_slow_pick_up_takes_credit_away():
    async with stage(1) as it:
        await it.connect(2)
        await it.loop.pass_time(0.05)
        it.workers[1].take_all()
        it.workers[1].ack()
        await it.settled()
        await it.connect(2)
        assert it.outstanding(1) == 1


async def test_late_ones_are_passed_over_while_others_are_not():
    async with stage(1, 2) as it:
        await it.connect(2)
        it.workers[2].take_all()
        it.workers[2].ack()
        await it.settled()
        await it.loop.pass_time(LATE_AFTER * 2)
        await it.connect(2)
        assert it.outstanding(1) == 1
        assert it.outstanding(2) == 2


async def test_with_all_late_the_late_ones_are_served():
    async with stage(1, 2) as it:
        await it.connect(2)
        await it.loop.pass_time(LATE_AFTER * 2)
        await it.connect(2)
        assert [it.outstanding(number) for number in (1, 2)] == [2, 2]


async def test_what_a_dead_worker_left_is_read_back_in_order_and_goes_to_others():
    async with stage(1) as it:
        ports = await it.connect(2)
        assert it.outstanding(1) == 2
        await it.worker(2)
        it.listener.remove(1)
        await it.settled()
        assert it.workers[2].take_all() == ports
        assert it.distribution.account(1) == (0, 0)


async def test_what_a_dead_worker_had_taken_is_not_given_again():
    async with stage(1) as it:
        await it.worker(3, ready=False)
        ports = await it.connect(1)
        assert it.workers[1].take_all() == ports
        ports += await it.connect(1)
        it.listener.set_ready(3)
        it.listener.remove(1)
        await it.settled()
        assert it.workers[3].take_all() == ports[1:]


async def test_a_leaving_worker_is_relieved_of_what_lies_on_its_belt_and_gets_no_more():
    async with stage(1, 2) as it:
        ports = await it.connect(4)
        it.listener.rest(1, finishes=True)
        await it.settled()
        assert it.workers[1].take() is None
        it.workers[2].take_all()
        it.workers[2].ack()
        await it.settled()
        assert it.workers[2].take_all() == [ports[0], ports[2]]
        assert it.outstanding(1) == 0


async def test_close_on_the_belt_gives_back_what_lies_there():
    async with stage(1, 2) as it:
        ports = await it.connect(2)
        it.workers[1].say(wire.Close())
        await it.settled()
        assert ("closed", 1) in it.events
        assert it.workers[2].take_all() == [ports[1], ports[0]]


async def test_the_last_words_of_a_dead_worker_are_heard_first():
    """It acknowledged, then closed, then died: no connection counts as lost, or is given twice."""
    async with stage(1, 2) as it:
        ports = await it.connect(2)
        it.workers[1].take_all()
        it.workers[1].ack()
        it.workers[1].say(wire.Close())
        it.listener.remove(1)
        await it.settled()
        assert it.workers[2].take_all() == [ports[1]]


async def test_a_connection_given_back_goes_to_another():
    async with stage(1, 2) as it:
        ports = await it.connect(2)
        first, (conn,), (peer,) = it.workers[1].take()
        it.workers[1].say(wire.Full())
        it.workers[1].give_back(first, conn, peer)
        await it.settled()
        assert it.workers[2].take_all() == [ports[1], ports[0]]
        assert it.outstanding(1) == 0


async def test_a_full_worker_gets_nothing_until_it_serves_again():
    async with stage(1, 2) as it:
        ports = await it.connect(2)
        it.workers[1].say(wire.Full())
        await it.settled()
        assert it.workers[1].take() is None  # read back
        assert it.workers[2].take_all() == [ports[1], ports[0]]
        it.workers[2].ack()
        await it.settled()
        ports = await it.connect(2)
        assert it.workers[2].take_all() == ports
        it.workers[2].ack()
        it.workers[1].serve(16)
        await it.settled()
        await it.connect(1)
        assert it.workers[1].take_all()
        assert it.events.count(("serving", 1)) == 1
