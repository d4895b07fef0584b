"""What may happen to a dispatcher, as a state machine of hypothesis. `make_world` chooses the dispatcher."""

import contextlib

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from everycore.core.lanes import COSTLY, LATE_AFTER, RECALL_AFTER, SLOW_PICK_UP
from everycore.errors import ProtocolError
from tests.kit.dispatch_law import check
from tests.kit.dispatch_world import World
from tests.kit.watched_lanes import picture

WORKERS = st.integers(1, 4)


class Histories(RuleBasedStateMachine):
    """Any events, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = self.make_world()

    def make_world(self) -> World:
        return World()

    @initialize(
        workers=st.lists(WORKERS, min_size=1, max_size=4, unique=True), batch=st.sampled_from([1, 16])
    )
    def begin(self, workers, batch):
        for worker in workers:
            self.world.join(worker, batch)

    @rule(count=st.sampled_from([1, 1, 2, 3, 5, 8, 20, 70]))
    def connect(self, count):
        self.world.connect(count)

    @rule(worker=WORKERS, batch=st.sampled_from([1, 3, 16]), room=st.sampled_from([None, None, 1, 3]))
    def join_or_have_room(self, worker, batch, room):
        it = self.world.workers.get(worker)
        if it is None or not (it.stands_still or it.finishes):
            self.world.join(worker, batch, room)

    @rule(worker=WORKERS, at_once=st.booleans())
    def finish(self, worker, at_once):
        """Let the last worker finish: it gets all that wait, whatever its credit."""
        if worker in self.world.workers and not self.world.workers[worker].rests:
            self.world.finish(worker, at_once=at_once)

    @rule(worker=WORKERS)
    def rest(self, worker):
        if worker in self.world.workers:
            self.world.rest(worker)

    @rule(worker=WORKERS)
    def leave_or_die(self, worker):
        if worker in self.world.workers:
            self.world.leave(worker)

    @rule(worker=WORKERS)
    def read(self, worker):
        if worker in self.world.workers:
            self.world.read(worker)

    @rule(worker=WORKERS)
    def acknowledge(self, worker):
        if worker in self.world.workers:
            self.world.acknowledge(worker)

    @rule(worker=WORKERS)
    def work(self, worker):
        if worker in self.world.workers:
            self.world.work(worker)

    @rule(worker=WORKERS, which=st.integers(0, 20))
    def give_back(self, worker, which):
        if worker in self.world.workers:
            self.world.give_back(worker, which)

    @rule(worker=WORKERS)
    def get_full(self, worker):
        if worker in self.world.workers:
            self.world.fill(worker)

    @rule(worker=WORKERS, takes=st.booleans())
    def belt_takes_no_more_or_again(self, worker, takes):
        if worker in self.world.workers:
            self.world.workers[worker].belt_takes = takes

    @rule(worker=WORKERS, count=st.integers(1, 4), seconds=st.sampled_from([0.0, 0.001, 0.004]))
    def connect_while_a_belt_takes_nothing(self, worker, count, seconds):
        if worker in self.world.workers:
            self.world.workers[worker].belt_takes = False
            self.world.connect(count)
            check(self.world)
            self.world.workers[worker].belt_takes = True
            self.world.advance(seconds)

    @rule(worker=WORKERS, stands_still=st.booleans())
    def stand_still_or_go_on(self, worker, stands_still):
        if worker in self.world.workers:
            self.world.workers[worker].stands_still = stands_still

    @rule(fails=st.booleans())
    def descriptors_run_out_or_come_free(self, fails):
        self.world.accept_fails = fails

    @precondition(lambda self: self.world.listens)
    @rule()
    def a_listener_is_found_readable_with_nobody_there(self):
        """Another process was faster, or the client has given up."""
        if self.world.dispatcher.orders.poll:
            self.world.turn(woken=True)
            self.world.obey()

    @rule(seconds=st.sampled_from([0.0001, 0.001, LATE_AFTER, 0.005, SLOW_PICK_UP, RECALL_AFTER, 0.05, 1.0]))
    def advance(self, seconds):
        self.world.advance(seconds)

    @rule(cost=st.sampled_from([0.0, COSTLY / 50, COSTLY / 2, 4 * COSTLY, 400 * COSTLY]))
    def cost(self, cost):
        self.world.cost = cost

    @rule(worker=WORKERS, beyond=st.integers(0, 5))
    def acknowledge_what_it_was_never_given(self, worker, beyond):
        lane = self.world.lanes.lane_of(worker)
        last = 1 + beyond if lane is None else lane.next_number + beyond
        with self.refused():
            self.world.dispatcher.acknowledged(worker, last, self.world.now)

    @rule(worker=WORKERS, number=st.integers(-2, 40), count=st.integers(1, 3))
    def give_back_what_it_does_not_have(self, worker, number, count):
        """It was never given, was acknowledged, or came back before; all of a message or a part of it."""
        lane = self.world.lanes.lane_of(worker)
        if lane is None or not set(range(number, number + count)) <= set(lane.pending):
            with self.refused():
                self.world.dispatcher.came_back(worker, number, count, [-1] * count)

    @contextlib.contextmanager
    def refused(self):
        before = picture(self.world.lanes), list(self.world.dispatcher.arrivals.queue)
        with pytest.raises(ProtocolError):
            yield
        assert (picture(self.world.lanes), list(self.world.dispatcher.arrivals.queue)) == before

    @invariant()
    def the_law(self):
        check(self.world)

    def teardown(self):
        """No connection waits for ever while a worker has credit and is not blocked."""
        world = self.world
        world.accept_fails = False
        for worker, it in list(world.workers.items()):
            it.belt_takes = True
            if (it.is_full or it.rests) and not (it.stands_still or it.finishes):
                world.join(worker, it.batch)
        world.join(5)
        world.settle()
