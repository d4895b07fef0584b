"""Late workers are skipped, and what lies too long on a belt is taken back."""

import pytest

from everycore.core.lanes import LATE_AFTER, RECALL_AFTER
from tests.kit.dispatch_law import check
from tests.kit.dispatch_world import world_of


class TestLateAndStalled:
    def test_a_late_one_is_passed_over_until_it_acknowledges(self):
        world = world_of(2)
        world.connect()  # to 1, which does not take it
        world.advance(2 * LATE_AFTER)
        for _ in range(4):
            world.connect()
            world.work(2)
        assert world.given == {1: 1, 2: 4}
        world.work(1)
        world.connect()
        assert world.given == {1: 2, 2: 4}

    def test_if_all_are_late_they_are_served_in_turn(self):
        world = world_of(2)
        world.connect(2)
        world.advance(2 * LATE_AFTER)
        world.connect(2)
        assert world.given == {1: 2, 2: 2}

    def test_no_connection_is_put_behind_an_overdue_one_even_if_all_are(self):
        world = world_of(2)
        world.connect(2)
        world.advance(2 * RECALL_AFTER)
        world.connect(2)
        assert world.given == {1: 1, 2: 1}
        assert len(world.backlog) == 2
        world.work(2)  # the worker that is free first
        assert world.given == {1: 1, 2: 2}

    def test_what_lies_too_long_is_taken_back_when_another_worker_has_room(self):
        world = world_of(2)
        world.workers[1].stands_still = True
        world.connect(2)
        world.work(2)
        world.advance(2 * RECALL_AFTER)
        assert world.given == {1: 1, 2: 2}
        assert world.lanes.lanes[1].is_stalled
        (probe,) = world.workers[1].belt
        assert probe.connections == []
        world.settle()
        assert world.picked_up == {1, 2}

    def test_it_is_not_fed_again_until_it_acknowledges_and_then_it_is(self):
        world = world_of(2)
        world.workers[1].stands_still = True
        world.connect(2)
        world.settle()
        for _ in range(20):
            world.connect()
            world.settle()
        assert world.given[1] == 1
        world.workers[1].stands_still = False
        world.work(1)
        assert not world.lanes.lanes[1].is_stalled
        world.connect()
        assert world.given[1] == 2

    def test_nothing_is_taken_back_while_no_worker_has_room(self):
        world = world_of(2)
        for it in world.workers.values():
            it.stands_still = True
        world.connect(100)
        world.advance(1)  # all are late, and are served as far as their credit goes
        before = [len(it.belt) for it in world.workers.values()]
        world.advance(1)
        assert [len(it.belt) for it in world.workers.values()] == before
        assert not any(lane.is_stalled for lane in world.lanes.lanes.values())

    def test_one_that_has_taken_all_and_blocks_needs_no_probe(self):
        world = world_of(2)
        world.connect(2)
        world.read(1)
        world.work(2)
        world.workers[1].stands_still = True
        world.advance(2 * RECALL_AFTER)
        lane = world.lanes.lanes[1]
        assert lane.is_stalled
        assert not world.workers[1].belt
        assert lane.outstanding == 1
        world.workers[1].stands_still = False
        world.work(1)
        assert not lane.is_stalled

    def test_a_stalled_one_that_gives_back_its_last_is_heard_of_again(self):
        world = world_of(2)
        world.connect(2)
        world.read(1)
        world.work(2)
        world.advance(2 * RECALL_AFTER)
        assert world.lanes.lanes[1].is_stalled
        world.give_back(1, 0)
        check(world)
        world.settle()
        assert world.picked_up == {1, 2}

    def test_what_could_not_be_taken_back_is_when_a_worker_has_room(self):
        """All credit is out, the backlog is empty, all are overdue; then one worker acknowledges."""
        world = world_of(2)
        world.workers[1].stands_still = world.workers[2].stands_still = True
        world.connect(4)
        world.advance(RECALL_AFTER * 4)
        assert world.dispatcher.orders.look_at is None
        world.workers[2].stands_still = False
        world.work(2)
        for _ in range(4):
            world.advance(RECALL_AFTER)
            world.work(2)
        assert world.picked_up == {1, 2, 3, 4}

    def test_one_that_has_less_room_than_before_is_looked_at_when_it_becomes_late(self):
        """No message went out in the turn that finds no worker with credit."""
        world = world_of(1)
        world.connect()
        world.join(1, room=1)
        assert not world.dispatcher.orders.poll
        late_at = world.now + LATE_AFTER
        assert world.dispatcher.orders.look_at == pytest.approx(late_at, abs=1e-5)


def test_a_stalled_worker_that_finishes_keeps_no_connection_from_a_new_one():
    """It was the last one, and got the connections that had come; then it was found to stand still."""
    world = world_of(2)
    world.workers[1].stands_still = True
    world.connect()
    world.advance(2 * RECALL_AFTER)
    assert world.lanes.lanes[1].is_stalled
    world.settle()
    world.leave(2)
    world.connect(2)
    world.finish(1, at_once=True)
    assert world.workers[1].belt[-1].connections
    world.join(3)
    world.settle()
    assert world.given[3] == 2
