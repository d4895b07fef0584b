"""The flow: what is handed to whom, taken back and waited for. See also `test_dispatch_histories`."""

import pytest

from everycore.core.arrivals import NoConnection
from everycore.core.dispatch import BELT_PAUSE, BURST, MOST_AT_THE_END, Dispatcher, Orders
from everycore.core.lanes import FIRST_CREDIT, LATE_AFTER, RECALL_AFTER, Pause
from everycore.errors import ProtocolError
from tests.kit.dispatch_law import check
from tests.kit.dispatch_world import ACCEPT_PAUSE, World, world_in_full_credit, world_of

NOTHING = Orders(poll=False, look_at=None, turn_soon=False)


class TestOrders:
    def test_there_is_nothing_to_do_before_a_worker_is_ready(self):
        dispatcher = Dispatcher[int]()
        assert dispatcher.orders == NOTHING
        dispatcher.arrivals.begin()
        assert dispatcher.orders == NOTHING._replace(poll=True)
        dispatcher.arrivals.cease()
        assert dispatcher.orders == NOTHING

    def test_the_listener_is_not_polled_while_no_worker_has_credit(self):
        world = world_of(1)
        assert world.dispatcher.orders.poll
        world.connect(FIRST_CREDIT)
        assert not world.dispatcher.orders.poll
        assert world.dispatcher.needs_turn
        world.work(1)
        assert world.dispatcher.orders.poll
        assert not world.dispatcher.needs_turn

    def test_while_connections_are_under_way_it_looks_again(self):
        world = world_of(1)
        assert world.dispatcher.orders.look_at is None
        world.connect()
        assert world.dispatcher.orders.look_at == world.now + RECALL_AFTER
        world.work(1)
        world.advance(RECALL_AFTER)
        assert world.dispatcher.orders.look_at is None

    def test_out_of_credit_it_looks_when_a_worker_becomes_late(self):
        world = world_of(1)
        world.connect(FIRST_CREDIT)
        assert world.dispatcher.orders.look_at == pytest.approx(world.now + LATE_AFTER, abs=1e-5)

    def test_what_fails_to_be_accepted_is_tried_again_after_a_pause(self):
        world = world_of(1)
        world.accept_fails = True
        world.connect(2)
        assert world.dispatcher.orders == NOTHING._replace(look_at=world.accepts_at)
        world.accept_fails = False
        world.advance(ACCEPT_PAUSE / 2)
        world.turn()
        assert not world.given
        world.advance(ACCEPT_PAUSE)
        assert world.given == {1: 2}

    def test_a_look_that_comes_for_another_reason_ends_no_pause(self):
        world = world_of(2)
        world.connect()
        world.accept_fails = True
        world.connect()
        pause_ends = world.accepts_at
        world.advance(RECALL_AFTER * 1.5)
        assert world.dispatcher.orders.look_at is not None
        assert world.dispatcher.orders.look_at <= pause_ends
        assert not world.dispatcher.orders.poll

    def test_a_socket_that_does_not_listen_is_not_polled_until_the_next_turn(self):
        dispatcher = Dispatcher[int]()
        dispatcher.arrivals.begin()
        dispatcher.join(1)
        assert list(dispatcher.turn(0.0, lambda: NoConnection.CLOSED, woken=True)) == []
        assert not dispatcher.orders.poll
        assert list(dispatcher.turn(0.0, lambda: NoConnection.EMPTY)) == []
        assert dispatcher.orders.poll

    def test_a_turn_is_a_burst_and_what_is_queued_beyond_has_the_next_one(self):
        world = world_of(BURST, batch=16)
        world.dispatcher.arrivals.queue.extend(range(BURST + 10))
        taken = list(world.dispatcher.turn(world.now, world.accept))
        assert sum(len(connections) for _, _, connections in taken) == BURST
        assert world.dispatcher.orders.turn_soon
        list(world.dispatcher.turn(world.now, world.accept))
        assert not world.dispatcher.arrivals.queue
        assert not world.dispatcher.orders.turn_soon

    @pytest.mark.parametrize("woken", [True, False])
    def test_credit_grows_only_while_a_connection_waits(self, woken):
        world = world_of(1)
        world.connect(FIRST_CREDIT)
        lane = world.lanes.lanes[1]
        world.dispatcher.join(1)  # without a turn: it is full
        list(world.dispatcher.turn(world.now, world.accept, woken=woken))
        assert lane.credit == (2 * FIRST_CREDIT if woken else FIRST_CREDIT)

    def test_in_one_turn_a_worker_is_sent_as_few_messages_as_it_can_be(self):
        world = world_in_full_credit()
        world.sent.clear()
        world.connect(10)
        assert [len(connections) for _, connections in world.sent] == [10]


class TestBelts:
    def test_what_a_belt_refuses_is_next_in_its_order(self):
        world = world_of(2)
        world.connect(4)  # 1 and 3 to the first, 2 and 4 to the second
        for worker in (1, 2):
            world.read_back(worker)
        assert list(world.dispatcher.arrivals.queue) == [1, 3, 2, 4]
        world.workers[1].belt_takes = False
        world.turn()
        assert list(world.dispatcher.arrivals.queue) == [1, 2]
        assert world.workers[2].belt[0].connections == [3]

    def test_what_a_belt_refuses_another_worker_has_as_soon_as_the_loop_has_turned(self):
        world = world_of(2)
        world.workers[1].belt_takes = False
        world.connect()
        assert world.given == {2: 1}

    def test_a_belt_that_refused_a_message_is_not_tried_with_the_next(self):
        world = world_of(1, batch=1)
        tried: list[int] = []
        world.dispatcher.arrivals.queue.extend([7, 8])
        for worker, first, _ in world.dispatcher.turn(world.now, world.accept):
            tried.append(first)
            world.dispatcher.refused(worker, world.now)
        assert tried == [1]
        assert list(world.dispatcher.arrivals.queue) == [7, 8]
        assert world.lanes.lanes[1].outstanding == 0

    def test_it_is_tried_again_after_a_pause_and_no_sooner(self):
        world = world_of(1)
        world.workers[1].belt_takes = False
        world.connect()
        world.workers[1].belt_takes = True
        assert world.dispatcher.orders.look_at == world.now + BELT_PAUSE
        world.advance(BELT_PAUSE * 0.9)
        assert not world.given
        world.advance(BELT_PAUSE * 0.2)
        assert world.given == {1: 1}

    def test_a_worker_that_is_forgotten_leaves_no_look_behind(self):
        world = world_of(1)
        world.workers[1].belt_takes = False
        world.connect()
        world.leave(1)
        world.advance(BELT_PAUSE)
        assert world.dispatcher.orders.look_at is None


class TestFinishing:
    """The last leaving worker gets every connection that has come."""

    @pytest.mark.parametrize("batch", [1, 3, 16])
    def test_it_gets_all_waiting_connections_whatever_its_credit(self, batch):
        world = world_of(1, batch)
        world.connect(40)
        world.finish(1)
        assert world.dispatcher.finishing is None
        assert world.given == {1: 40}
        check(world)
        world.connect()
        assert world.given == {1: 40}

    def test_no_more_is_accepted_than_its_belt_took_and_one_message(self):
        world = world_of(1, batch=16)
        world.connect(100)
        world.workers[1].belt_takes = False
        world.finish(1)
        assert world.dispatcher.finishing == 1
        assert len(world.dispatcher.arrivals.queue) == 16
        assert not world.dispatcher.orders.poll
        world.workers[1].belt_takes = True
        world.advance(BELT_PAUSE * 1.1)
        assert world.dispatcher.finishing is None
        assert world.given == {1: 100}

    def test_the_listener_is_not_polled_meanwhile(self):
        world = world_of(1)
        world.workers[1].belt_takes = False
        world.backlog.append(1)
        world.finish(1)
        assert world.dispatcher.finishing == 1
        assert not world.dispatcher.orders.poll
        world.dispatcher.end_finishing(1)
        assert world.dispatcher.orders.poll

    def test_it_has_never_more_than_its_room(self):
        world = World()
        world.join(1, batch=16, room=3)
        world.connect(20)
        world.finish(1)
        turns = 0
        while world.dispatcher.finishing is not None:
            assert world.lanes.lanes[1].outstanding == 3
            world.work(1)
            turns += 1
        assert turns == 6
        assert world.given == {1: 20}

    def test_it_goes_on_when_descriptors_come_free(self):
        world = world_of(1)
        world.connect(10)
        world.accept_fails = True
        world.finish(1)
        assert world.dispatcher.finishing == 1
        world.accept_fails = False
        world.advance(ACCEPT_PAUSE * 1.1)
        assert world.dispatcher.finishing is None
        assert world.given == {1: 10}

    def test_a_flood_has_an_end(self):
        world = world_of(1, batch=16)
        world.backlog.extend(range(1, MOST_AT_THE_END + 1000))
        world.finish(1)
        assert world.dispatcher.finishing is None
        assert MOST_AT_THE_END <= len(world.accepted) <= MOST_AT_THE_END + 16

    def test_one_that_leaves_by_itself_has_what_its_belt_takes_at_once(self):
        world = world_of(1, batch=16)
        world.connect(100)
        world.workers[1].belt_takes = False
        world.finish(1, at_once=True)
        assert world.dispatcher.finishing is None
        world.workers[1].belt_takes = True
        world.advance(BELT_PAUSE * 2)
        assert world.given == {1: 2}

    def test_a_full_one_is_given_none(self):
        world = world_of(1)
        world.fill(1)
        world.connect(3)
        assert not world.dispatcher.finish(1)
        assert world.dispatcher.finishing is None

    @pytest.mark.parametrize("how", ["full", "gone", "relieved"])
    def test_it_ends(self, how):
        world = world_of(1)
        world.connect(10)
        world.workers[1].belt_takes = False
        world.finish(1)
        assert world.dispatcher.finishing == 1
        match how:
            case "full":
                world.fill(1)
            case "gone":
                world.leave(1)
            case "relieved":
                world.join(2)
        assert world.dispatcher.finishing is None
        if how == "relieved":
            world.settle()
            assert world.picked_up == set(range(1, 11))


class TestComingAndGoing:
    def test_what_the_dead_had_not_read_goes_to_others(self):
        world = world_of(2, batch=16)
        world.connect(4)
        world.read(1)
        world.connect(2)
        taken = set(world.workers[1].taken.values())
        world.leave(1)
        check(world)
        world.settle()
        assert world.lost == taken
        assert world.picked_up == world.accepted - taken

    def test_the_last_one_leaves_and_they_wait_for_the_next(self):
        world = world_of(1)
        world.connect(5)
        world.leave(1)
        assert world.lanes.open_to(world.now) == []
        check(world)
        world.join(2)
        world.settle()
        assert world.picked_up == {1, 2, 3, 4, 5}

    def test_a_full_one_gets_nothing_until_it_has_room(self):
        world = world_of(1)
        world.fill(1)
        world.connect(3)
        world.advance(1)
        assert not world.given
        world.join(1)
        world.settle()
        assert world.picked_up == {1, 2, 3}

    def test_reasons_to_rest_end_each_by_itself(self):
        world = world_of(1)
        world.workers[1].belt_takes = False
        world.connect(2)  # the belt takes none
        world.fill(1)
        world.workers[1].belt_takes = True
        world.advance(2 * BELT_PAUSE)
        assert not world.workers[1].belt, "the belt's pause has ended that of the worker, which is full"
        world.workers[1].belt_takes = False
        world.join(1)  # it has room again, and the belt has none
        world.join(1)
        assert world.lanes.lanes[1].pauses == {Pause.BELT}
        world.workers[1].belt_takes = True
        world.settle()
        assert world.picked_up == {1, 2}

    def test_one_that_is_given_no_more_may_give_back_what_it_has_once(self):
        world = world_of(2)
        world.connect(2)
        world.read(1)
        world.rest(1)
        assert list(world.lanes._left[1].pending) == [1]
        world.give_back(1, 0)
        check(world)
        with pytest.raises(ProtocolError, match="which it does not have"):
            world.dispatcher.came_back(1, 1, 1, [99])
        world.settle()
        assert world.picked_up == {1, 2}

    def test_one_that_comes_back_goes_on_with_its_numbers(self):
        """Otherwise an earlier connection that it gives back would be taken for a later one."""
        world = world_of(1)
        world.connect()
        world.read(1)
        world.rest(1)
        world.join(1)
        world.connect()
        assert list(world.lanes.lanes[1].pending) == [1, 2]
