"""The lanes: turns, credit, the cost of connections, and what may come back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everycore.core.lanes import (
    COSTLY,
    FIRST_CREDIT,
    LATE_AFTER,
    MOST_CREDIT,
    RECALL_AFTER,
    SLOW_PICK_UP,
    Lane,
    Lanes,
    Pause,
)
from everycore.core.policies import MOST_ARREARS, RoundRobin
from everycore.errors import ProtocolError
from tests.kit.dispatch_world import world_in_full_credit, world_of


class TestTurns:
    @pytest.mark.parametrize("count", [1, 2, 3, 8])
    def test_one_by_one_is_strictly_in_turn(self, count):
        world = world_of(count)
        order = []
        for _ in range(5 * count):
            before = dict(world.given)
            world.connect()
            (got,) = [worker for worker in world.given if world.given[worker] != before.get(worker, 0)]
            order.append(got)
            world.work(got)
        assert order == list(range(1, count + 1)) * 5

    @pytest.mark.parametrize("burst", [1, 16, 64])
    def test_bursts_are_spread_evenly(self, burst):
        world = world_of(8, batch=16)
        for _ in range(400 // burst):
            world.connect(burst)
            world.settle()
        shares = [world.given[worker] for worker in range(1, 9)]
        assert max(shares) - min(shares) <= 1

    @given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 6))
    @settings(max_examples=50)
    def test_what_late_binding_gives_the_quick_is_made_good(self, bursts, count):
        """In a burst the first to acknowledge gets more; the others are owed up to `MOST_ARREARS`."""
        world = world_of(count)
        for burst in bursts:
            world.connect(burst)
            world.settle()
        for _ in range(MOST_ARREARS * count):
            world.connect()
            world.settle()
        shares = [lane.given for lane in world.lanes.lanes.values()]
        assert max(shares) - min(shares) <= 1

    def test_a_connection_that_is_not_there_moves_no_turn(self):
        world = world_of(3)
        for _ in range(10):
            world.turn()
        world.connect()
        assert world.given == {1: 1}

    def test_a_newcomer_is_owed_nothing(self):
        world = world_of(2)
        for _ in range(50):
            world.connect()
            world.settle()
        world.join(3)
        for _ in range(9):
            world.connect()
            world.settle()
        assert world.given == {1: 28, 2: 28, 3: 3}

    def test_one_that_comes_back_is_owed_at_most_eight(self):
        world = world_of(2)
        world.fill(1)
        for _ in range(100):
            world.connect()
            world.work(2)
        assert world.given == {2: 100}
        world.join(1)
        row = 0
        while True:
            world.connect()
            world.settle()
            if world.given[2] > 100:
                break
            row += 1
        assert row <= MOST_ARREARS + 1

    def test_the_policy_picks_among_candidates_and_changes_nothing(self):
        lanes = [Lane(worker, 1, given) for worker, given in enumerate([5, 3, 3, 9])]
        for _ in range(3):
            assert RoundRobin().pick(lanes) is lanes[1]


class TestCredit:
    def test_without_a_worker_with_credit_they_stay_in_the_backlog(self):
        world = world_of(2)
        for it in world.workers.values():
            it.stands_still = True
        world.connect(100)
        most = sum(lane.credit for lane in world.lanes.lanes.values())
        assert len(world.accepted) <= most
        assert len(world.backlog) == 100 - len(world.accepted)
        assert not world.dispatcher.arrivals.queue

    def test_it_grows_only_when_it_ran_out_and_no_worker_was_late(self):
        world = world_of(1, batch=16)
        lane = world.lanes.lanes[1]
        world.connect()
        world.work(1)
        assert lane.credit == FIRST_CREDIT
        world.connect(100)  # out of credit; it is not known whether a connection waits
        assert lane.credit == FIRST_CREDIT
        world.work(1)  # one did
        assert lane.credit == 2 * FIRST_CREDIT
        while world.backlog:
            world.work(1)
        assert lane.credit == MOST_CREDIT

    def test_not_while_a_worker_is_late(self):
        world = world_of(1)
        world.connect(FIRST_CREDIT)
        world.advance(2 * LATE_AFTER)
        world.connect(10)
        assert not world.lanes.starved(world.now)
        assert world.lanes.lanes[1].credit == FIRST_CREDIT

    def test_it_falls_to_one_when_a_pick_up_was_slow(self):
        world = world_in_full_credit()
        world.connect()
        world.advance(2 * SLOW_PICK_UP)
        world.work(1)
        assert world.lanes.lanes[1].credit == 1

    def test_it_stays_where_all_pick_ups_take_so_long(self):
        """On an overloaded machine, a worker that waits for a processor is like the others."""
        world = world_of(1, batch=16)
        for _ in range(60):
            world.connect()
            world.now += 2 * SLOW_PICK_UP
            world.work(1)
        assert world.lanes.lanes[1].credit >= FIRST_CREDIT


class TestCost:
    """If handlers take long, connections go out one by one."""

    def costly(self, world, each):
        """Its worker has acknowledged connections, and reported `each` seconds for every one."""
        world.cost = each
        for _ in range(60):
            world.connect()
            world.work(1)
        return world.lanes

    def test_dear_ones_are(self):
        assert self.costly(world_of(1, batch=16), 2 * COSTLY).is_costly

    def test_cheap_ones_are_not(self):
        assert not self.costly(world_of(1, batch=16), COSTLY / 4).is_costly

    def test_to_wait_for_a_worker_costs_it_nothing(self):
        """When processors are short, connections wait even for idle workers."""
        world = world_of(1, batch=16)
        for _ in range(60):
            world.connect()
            world.now += 4 * COSTLY
            world.work(1)
        assert not world.lanes.is_costly

    def test_a_worker_that_does_not_measure_changes_nothing(self):
        assert self.costly(world := world_of(1, batch=16), 2 * COSTLY).is_costly
        assert self.costly(world, 0.0).is_costly

    def test_then_credit_does_not_grow_and_what_has_grown_is_not_used(self):
        world = world_in_full_credit()
        self.costly(world, 2 * COSTLY)
        world.connect(50)
        assert world.lanes.lanes[1].outstanding == FIRST_CREDIT
        assert not world.lanes.starved(world.now)

    def test_and_it_is_cheap_again_when_they_are(self):
        lanes = self.costly(world := world_of(1, batch=16), 2 * COSTLY)
        self.costly(world, COSTLY / 4)
        assert not lanes.is_costly


class TestTime:
    @given(
        st.floats(0.0, 1e6, allow_nan=False),
        st.sampled_from([LATE_AFTER, RECALL_AFTER, 0.001, 0.1, 1.0]),
    )
    @settings(max_examples=300)
    def test_at_the_moment_it_names_the_answer_has_changed(self, now, step):
        """Even on a loop whose clock has whole milliseconds, or whose timer is exact."""
        lanes = Lanes(late_after=step, recall_after=2 * step)
        first, second = lanes.join(1), lanes.join(2)
        lanes.hand(first, now)
        late_at = lanes.next_look(now)
        assert late_at is not None
        assert late_at == pytest.approx(now + step, abs=1e-5)
        for _ in range(FIRST_CREDIT):
            lanes.hand(second, late_at)
        assert first.is_late(late_at - lanes._late_limit)
        lanes.acknowledged(2, FIRST_CREDIT, late_at)
        overdue_at = lanes.next_look(late_at)
        assert overdue_at is not None
        assert overdue_at >= now + lanes._overdue_limit
        assert lanes.overdue(overdue_at) == [first]
        assert lanes.next_look(overdue_at) is None  # waiting changes nothing more


class TestWords:
    def test_messages_of_workers_that_are_gone_are_violations(self):
        lanes = Lanes()
        with pytest.raises(ProtocolError, match="only 0 were handed over"):
            lanes.acknowledged(7, 99, 0.0)
        with pytest.raises(ProtocolError, match="which it does not have"):
            lanes.returned(7, 99)
        lanes.pause(7, Pause.FULL)
        lanes.resume(7, Pause.FULL)
        lanes.leave(7)
        assert lanes.forget(7) == 0
        assert lanes.open_to(0.0) == []
        assert lanes.overdue(0.0) == []
        assert lanes.next_look(0.0) is None
        assert not lanes.starved(0.0)
