"""All workers are to leave: connections that have come are accepted and picked up, and no later ones."""

from everycore.core.arrivals import MOST_TAKEN_IN
from everycore.core.lanes import FIRST_CREDIT, RECALL_AFTER
from tests.kit.dispatch_world import ACCEPT_PAUSE, World, world_of


def shut(world: World) -> None:
    world.dispatcher.arrivals.shut()
    world.hear()


def work_to_the_end(world: World) -> None:
    while world.dispatcher.arrivals.queue or world.backlog or any(it.belt for it in world.workers.values()):
        for worker in world.workers:
            world.work(worker)


class TestShutting:
    def test_without_a_worker_it_is_over_at_once(self):
        world = world_of(2)
        shut(world)
        assert not world.dispatcher.arrivals.is_shutting
        assert world.dispatcher.is_idle
        assert not world.dispatcher.orders.poll

    def test_everybody_in_the_backlog_is_taken_in_whatever_the_credit(self):
        world = world_of(1)
        world.connect(FIRST_CREDIT + 20)
        shut(world)
        assert not world.backlog
        assert not world.dispatcher.arrivals.is_shutting
        assert len(world.dispatcher.arrivals.queue) == 20
        assert not world.dispatcher.is_idle

    def test_no_connection_is_accepted_after_the_backlog_was_empty(self):
        world = world_of(1)
        shut(world)
        world.connect(3)
        world.work(1)
        assert len(world.backlog) == 3
        assert not world.dispatcher.orders.poll

    def test_all_workers_share_the_connections_that_had_come(self):
        world = world_of(4)
        world.connect(100)
        shut(world)
        work_to_the_end(world)
        assert world.dispatcher.is_idle
        assert sorted(world.picked_up) == list(range(1, 101))
        assert set(world.given) == {1, 2, 3, 4}
        assert min(world.given.values()) >= 10

    def test_it_is_not_idle_while_a_connection_lies_on_a_belt_unread(self):
        world = world_of(1)
        world.connect(1)
        shut(world)
        assert not world.dispatcher.arrivals.queue
        assert not world.dispatcher.is_idle
        world.work(1)
        assert world.dispatcher.is_idle

    def test_a_worker_that_stands_still_and_has_nothing_delays_no_other(self):
        world = world_of(2)
        world.workers[1].stands_still = True
        world.connect(2)
        shut(world)
        world.work(2)
        world.advance(RECALL_AFTER * 2)
        world.work(2)
        assert world.dispatcher.is_idle
        assert sorted(world.picked_up) == [1, 2]

    def test_so_many_at_a_time_that_descriptors_last(self):
        world = world_of(1)
        world.connect(MOST_TAKEN_IN * 2)
        shut(world)
        assert len(world.dispatcher.arrivals.queue) <= MOST_TAKEN_IN
        assert world.dispatcher.arrivals.is_shutting
        work_to_the_end(world)
        assert not world.dispatcher.arrivals.is_shutting
        assert len(world.picked_up) == MOST_TAKEN_IN * 2

    def test_without_descriptors_it_goes_on_after_the_pause(self):
        world = world_of(1)
        world.accept_fails = True
        world.connect(10)
        shut(world)
        assert world.dispatcher.arrivals.is_shutting
        world.accept_fails = False
        world.advance(ACCEPT_PAUSE)
        world.hear()
        assert not world.dispatcher.arrivals.is_shutting
        assert not world.backlog

    def test_it_ends_when_a_worker_comes_that_stays(self):
        world = world_of(1)
        shut(world)
        world.dispatcher.arrivals.begin()
        world.connect(1)
        world.work(1)
        assert world.picked_up == {1}
