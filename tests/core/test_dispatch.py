"""The dispatcher under a simulated kernel, belts and workers that do whatever workers do.

The law: each accepted connection is at every step in exactly one of queued, on a belt, picked up, given
back (and then queued again). `World` is what `primary.acceptor` is in earnest, written plainly: a backlog, a
queue, belts, a timer; its workers read, acknowledge, give back, fill up, stand still and die.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from everycore.core.dispatch import (
    COSTLY,
    FIRST_CREDIT,
    LATE_AFTER,
    MOST_CREDIT,
    RECALL_AFTER,
    SLOW_PICK_UP,
    Dispatcher,
    Lane,
    Pause,
)
from everycore.core.policies import MOST_ARREARS, RoundRobin
from everycore.errors import ProtocolError

#: More than the acceptor's own: what one pump takes before others get their turn does not matter here.
BURST = 64
#: Seconds after which a belt that took nothing is tried again.
BELT_PAUSE = 0.01


@dataclass
class Message:
    """What lies on a belt: a number for each connection; a probe has none."""

    first: int
    connections: list[int]

    @property
    def last(self) -> int:
        return self.first + max(len(self.connections), 1) - 1


@dataclass
class Worker:
    batch: int
    belt: deque[Message] = field(default_factory=deque)
    #: Number -> connection (None: a probe), taken off the belt and not yet acknowledged.
    taken: dict[int, int | None] = field(default_factory=dict)
    stands_still: bool = False
    is_full: bool = False
    #: Whether its belt takes what it is sent; and if it did not, when it is tried again.
    belt_takes: bool = True
    try_again_at: float | None = None
    #: It leaves, and has been given all who came; another that comes may relieve it.
    finishes: bool = False
    #: It is given no more, and still has what it has taken.
    rests: bool = False


def picture(dispatcher: Dispatcher) -> object:
    """All there is to know about a dispatcher, to see whether something changed."""
    lanes = [
        (
            worker,
            *(getattr(lane, name) for name in Lane.__slots__ if name not in ("pending", "pauses")),
            tuple(lane.pending.items()),
            frozenset(lane.pauses),
        )
        for lanes in (dispatcher.lanes, dispatcher._left)
        for worker, lane in lanes.items()
    ]
    others = {name: value for name, value in vars(dispatcher).items() if name not in ("lanes", "_left")}
    return lanes, list(dispatcher._left), others


class World:
    """A listener with its workers, and time."""

    def __init__(self, dispatcher: Dispatcher | None = None) -> None:
        self.dispatcher = dispatcher or Dispatcher()
        self.now = 1000.0
        #: Seconds that workers say a connection costs them; 0: they don't say.
        self.cost = 0.0
        self.alarm: float | None = None
        self.starving = False
        self.workers: dict[int, Worker] = {}
        self.last_connection = 0
        self.backlog: deque[int] = deque()
        self.queue: deque[int] = deque()
        self.accepted: set[int] = set()
        self.picked_up: set[int] = set()
        self.lost: set[int] = set()  # picked up, or on their way to it, by a worker that died or closed
        self.given: dict[int, int] = {}  # worker -> connections it got, recalled ones included

    # --- the primary ------------------------------------------------------------------------------------

    def connect(self, count: int = 1) -> None:
        for _ in range(count):
            self.last_connection += 1
            self.backlog.append(self.last_connection)
        if not self.starving:
            self.pump()

    def pump(self) -> None:
        was_starving, self.starving = self.starving, False
        shares: dict[int, list[tuple[int, int]]] = {}
        for taken in range(BURST):
            before = picture(self.dispatcher)
            lane = self.dispatcher.choose(self.now)
            assert picture(self.dispatcher) == before, "choose changed something"
            if lane is None:
                self.starving = True
                if self.queue or self.backlog or (was_starving and taken):
                    self.dispatcher.starved(self.now)
                break
            self.check_choice(lane)
            if self.queue:
                connection = self.queue.popleft()
            elif self.backlog:
                connection = self.backlog.popleft()
                self.accepted.add(connection)
            else:
                break  # accept returned EAGAIN
            number = self.dispatcher.hand(lane, self.now)
            assert lane.outstanding <= lane.credit <= MOST_CREDIT
            assert lane.room is None or lane.outstanding <= lane.room
            assert self.dispatcher._most_given - lane.given <= MOST_ARREARS
            self.given[lane.worker] = self.given.get(lane.worker, 0) + 1
            shares.setdefault(lane.worker, []).append((number, connection))
        for worker, share in shares.items():
            size = 1 if self.dispatcher.is_costly else self.workers[worker].batch
            for start in range(0, len(share), size):
                if not self.workers[worker].belt_takes:
                    self.unsend(worker, share[start:])
                    break
                part = share[start : start + size]
                message = Message(part[0][0], [connection for _, connection in part])
                self.workers[worker].belt.append(message)
        if shares or was_starving or self.starving:
            self.arm()

    def unsend(self, worker: int, share: list[tuple[int, int]]) -> None:
        for number, connection in reversed(share):
            self.dispatcher.returned(worker, number)
            self.queue.appendleft(connection)
        self.dispatcher.pause(worker, Pause.BELT)
        it = self.workers[worker]
        assert it.try_again_at is None, "its belt was tried while it rests"
        it.try_again_at = self.now + BELT_PAUSE

    def try_again(self, worker: int) -> None:
        self.workers[worker].try_again_at = None
        self.dispatcher.resume(worker, Pause.BELT)
        self.pump()

    def check_choice(self, chosen: Lane) -> None:
        """Strictly in turn among those with credit that are not late; late ones only if all are."""
        limit = self.now - self.dispatcher._late_limit
        open_lanes = [lane for lane in self.dispatcher.lanes.values() if not lane.pauses]
        assert chosen in open_lanes
        assert chosen.has_room
        if chosen.is_late(limit):
            assert all(lane.is_late(limit) for lane in open_lanes)
        most = FIRST_CREDIT if self.dispatcher.is_costly else MOST_CREDIT
        blocked = self.now - self.dispatcher._overdue_limit
        rivals = [
            lane
            for lane in open_lanes
            if lane.has_room and lane.outstanding < most and not lane.is_late(blocked)
            if lane.is_late(limit) == chosen.is_late(limit)
        ]
        assert chosen in rivals
        assert chosen.given == min(lane.given for lane in rivals)
        assert chosen is next(lane for lane in rivals if lane.given == chosen.given)

    def arm(self) -> None:
        at = self.dispatcher.next_look(self.now) if self.starving else self.now + RECALL_AFTER
        if at is not None:
            assert at > self.now
            self.alarm = at if self.alarm is None else min(self.alarm, at)

    def look(self) -> None:
        self.alarm = None
        for lane in self.dispatcher.overdue(self.now):
            assert not lane.is_stalled
            self.read_back(lane.worker)
            if not self.dispatcher.stall(lane):
                pass
            elif not self.workers[lane.worker].belt_takes:
                self.dispatcher.returned(lane.worker, self.dispatcher.probe(lane, self.now))
                assert not lane.is_stalled
                continue
            else:
                number = self.dispatcher.probe(lane, self.now)
                self.workers[lane.worker].belt.append(Message(number, []))
            assert lane.pending, "nobody would ever hear of it again"
        if self.starving or self.queue:
            self.pump()
        if any(lane.pending for lane in self.dispatcher.lanes.values()):
            self.arm()

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            due: list[tuple[float, Callable[[], None]]] = [
                (it.try_again_at, partial(self.try_again, worker))
                for worker, it in self.workers.items()
                if it.try_again_at is not None
            ]
            if self.alarm is not None:
                due.append((self.alarm, self.look))
            at, what = min(due, key=lambda each: each[0], default=(until + 1, self.look))
            if at > until:
                break
            self.now = max(self.now, at)
            what()
        self.now = until

    def read_back(self, worker: int) -> None:
        belt = self.workers[worker].belt
        while belt:
            message = belt.popleft()
            for at, connection in enumerate(message.connections):
                self.dispatcher.returned(worker, message.first + at)
                self.queue.append(connection)
            if not message.connections:
                self.dispatcher.returned(worker, message.first)

    def heard(self) -> None:
        if self.starving or self.queue:
            self.pump()

    # --- workers ----------------------------------------------------------------------------------------

    def join(self, worker: int, batch: int = 1, room: int | None = None) -> None:
        self.workers.setdefault(worker, Worker(batch)).batch = batch
        self.workers[worker].is_full = False
        self.workers[worker].rests = False
        self.dispatcher.join(worker, batch, room)
        self.pump()

    def rest(self, worker: int) -> None:
        """It is on its way out: what it has not read is taken back, what it has read is still its own."""
        self.read_back(worker)
        self.workers[worker].rests = True
        self.dispatcher.leave(worker)
        self.heard()

    def finish(self, worker: int) -> None:
        it, lane = self.workers[worker], self.dispatcher.lanes.get(worker)
        if lane is None or Pause.BELT in lane.pauses:
            return
        it.finishes = True
        self.dispatcher.pause(worker, Pause.FINISHING)
        share = [(self.dispatcher.hand(lane, self.now), connection) for connection in self.queue]
        self.queue.clear()
        if not it.belt_takes and share:
            self.unsend(worker, share)
        else:
            it.belt.extend(Message(number, [connection]) for number, connection in share)
        self.arm()

    def leave(self, worker: int) -> None:
        """It dies, or closes: what it has not read is taken back."""
        self.read_back(worker)
        gone = self.workers.pop(worker)
        lost = {connection for connection in gone.taken.values() if connection is not None}
        assert self.dispatcher.forget(worker) == len(gone.taken)
        self.lost |= lost
        self.heard()

    def read(self, worker: int) -> bool:
        it = self.workers[worker]
        if it.stands_still or not it.belt:
            return False
        message = it.belt.popleft()
        if message.connections:
            it.taken.update(
                (message.first + at, connection) for at, connection in enumerate(message.connections)
            )
        else:
            it.taken[message.first] = None
        return True

    def acknowledge(self, worker: int) -> None:
        it = self.workers[worker]
        if it.stands_still or not it.taken:
            return
        last = max(it.taken)
        self.picked_up |= {connection for connection in it.taken.values() if connection is not None}
        it.taken.clear()
        self.dispatcher.acknowledged(worker, last, self.now, self.cost)
        self.heard()

    def give_back(self, worker: int, which: int) -> None:
        it = self.workers[worker]
        numbers = [number for number, connection in it.taken.items() if connection is not None]
        if it.stands_still or not numbers:
            return
        number = numbers[which % len(numbers)]
        connection = it.taken.pop(number)
        assert connection is not None
        self.dispatcher.returned(worker, number)
        self.queue.append(connection)
        self.heard()

    def fill(self, worker: int) -> None:
        it = self.workers[worker]
        if not it.stands_still:
            it.is_full = True
            self.dispatcher.pause(worker, Pause.FULL)
            self.read_back(worker)
            self.heard()

    def work(self, worker: int) -> None:
        """One turn of a loop that is well."""
        while self.read(worker):
            pass
        self.acknowledge(worker)

    # --- the law ----------------------------------------------------------------------------------------

    def check(self) -> None:
        places = [
            list(self.queue),
            [c for it in self.workers.values() for message in it.belt for c in message.connections],
            [c for it in self.workers.values() for c in it.taken.values() if c is not None],
            list(self.picked_up),
            list(self.lost),
        ]
        everywhere = [connection for place in places for connection in place]
        assert sorted(everywhere) == sorted(self.accepted), "a connection is in two places, or in none"
        for worker, it in self.workers.items():
            numbers = [
                number for message in it.belt for number in range(message.first, message.last + 1)
            ] + list(it.taken)
            lane = self.dispatcher.lane_of(worker)
            assert lane is not None
            assert sorted(lane.pending) == sorted(numbers), "the account is not what lies there"
            if not it.rests:
                expected = {Pause.FULL} if it.is_full else set()
                expected |= set() if it.try_again_at is None else {Pause.BELT}
                expected |= {Pause.FINISHING} if it.finishes else set()
                assert lane.pauses - {Pause.STALLED} == expected, "one reason has ended another"
            assert 1 <= lane.credit <= MOST_CREDIT
            if lane.is_stalled:
                assert lane.pending, "stalled, with nothing to be heard of"
        assert set(self.dispatcher.lanes) == {worker for worker, it in self.workers.items() if not it.rests}
        assert set(self.dispatcher._left) == {worker for worker, it in self.workers.items() if it.rests}

    def settle(self, *, steps: int = 400) -> None:
        """Those who can, work; everything must be picked up."""
        for _ in range(steps):
            if not (self.backlog or self.queue or any(it.belt or it.taken for it in self.alive())):
                stuck = [it for it in self.workers.values() if it.stands_still and it.belt]
                if not [it for it in stuck if any(message.connections for message in it.belt)]:
                    return
            for worker, it in list(self.workers.items()):
                if not it.stands_still:
                    self.work(worker)
            self.advance(0.001)
            self.check()
        raise AssertionError(
            f"waiting for ever: backlog {list(self.backlog)}, queue {list(self.queue)}, {self.workers},"
            f" {picture(self.dispatcher)}"
        )

    def alive(self) -> list[Worker]:
        return [it for it in self.workers.values() if not it.stands_still]


WORKERS = st.integers(1, 4)


class Histories(RuleBasedStateMachine):
    """Anything, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(
        workers=st.lists(WORKERS, min_size=1, max_size=4, unique=True), batch=st.sampled_from([1, 16])
    )
    def begin(self, workers, batch):
        for worker in workers:
            self.world.join(worker, batch)

    @rule(count=st.integers(1, 20))
    def connect(self, count):
        self.world.connect(count)

    @rule(worker=WORKERS, batch=st.sampled_from([1, 3, 16]), room=st.sampled_from([None, None, 1, 3]))
    def join_or_have_room(self, worker, batch, room):
        it = self.world.workers.get(worker)
        if it is None or not it.stands_still:
            self.world.join(worker, batch, room)

    @rule(worker=WORKERS)
    def finish(self, worker):
        """Whatever its credit it is given all who wait."""
        if worker in self.world.workers:
            self.world.finish(worker)

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

    @rule(worker=WORKERS, stands_still=st.booleans())
    def stand_still_or_go_on(self, worker, stands_still):
        if worker in self.world.workers:
            self.world.workers[worker].stands_still = stands_still

    @rule(seconds=st.sampled_from([0.0001, 0.001, LATE_AFTER, 0.005, SLOW_PICK_UP, RECALL_AFTER, 0.05, 1.0]))
    def advance(self, seconds):
        self.world.advance(seconds)

    @rule(cost=st.sampled_from([0.0, COSTLY / 50, COSTLY / 2, 4 * COSTLY, 400 * COSTLY]))
    def cost(self, cost):
        self.world.cost = cost

    @rule(worker=WORKERS, beyond=st.integers(0, 5))
    def acknowledge_what_it_was_never_given(self, worker, beyond):
        lane = self.world.dispatcher.lane_of(worker)
        self.refused("acknowledged", worker, 1 + beyond if lane is None else lane.next_number + beyond)

    @rule(worker=WORKERS, number=st.integers(-2, 40), count=st.integers(1, 3))
    def give_back_what_it_does_not_have(self, worker, number, count):
        """Never given, acknowledged, given back before; all of a message, or a part of it."""
        lane = self.world.dispatcher.lane_of(worker)
        if lane is None or not set(range(number, number + count)) <= set(lane.pending):
            self.refused("returned", worker, number, count)

    def refused(self, how, worker, number, *arguments):
        if how == "acknowledged":
            arguments = (self.world.now,)
        before = picture(self.world.dispatcher)
        with pytest.raises(ProtocolError):
            getattr(self.world.dispatcher, how)(worker, number, *arguments)
        assert picture(self.world.dispatcher) == before

    @invariant()
    def the_law(self):
        self.world.check()

    def teardown(self):
        """Nothing waits for ever while somebody has credit and is not blocked."""
        for worker, it in list(self.world.workers.items()):
            it.belt_takes, it.finishes = True, False
            self.world.dispatcher.resume(worker, Pause.FINISHING)
            if (it.is_full or it.rests) and not it.stands_still:
                self.world.join(worker, it.batch)
        self.world.pump()
        if self.world.alive():
            self.world.settle()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=120, stateful_step_count=40)


def world_of(count: int, batch: int = 1) -> World:
    world = World()
    for worker in range(1, count + 1):
        world.join(worker, batch)
    return world


def world_in_full_credit() -> World:
    """One worker, which demand has given all the credit there is, and nothing under way."""
    world = world_of(1, batch=16)
    while world.dispatcher.lanes[1].credit < MOST_CREDIT:
        world.connect(50)
        world.work(1)
    world.settle()
    return world


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
        """In a burst who acknowledges first gets more; in the long run nobody is further ahead than that."""
        world = world_of(count)
        for burst in bursts:
            world.connect(burst)
            world.settle()
        shares = [world.given.get(worker, 0) for worker in range(1, count + 1)]
        assert max(shares) - min(shares) <= MOST_ARREARS

    def test_a_connection_that_is_not_there_moves_no_turn(self):
        world = world_of(3)
        for _ in range(10):
            world.pump()
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
    def test_nobody_with_credit_leaves_them_in_the_backlog(self):
        world = world_of(2)
        for it in world.workers.values():
            it.stands_still = True
        world.connect(100)
        most = sum(lane.credit for lane in world.dispatcher.lanes.values())
        assert len(world.accepted) <= most
        assert len(world.backlog) == 100 - len(world.accepted)
        assert not world.queue

    def test_it_grows_only_when_it_ran_out_and_nobody_was_late(self):
        world = world_of(1, batch=16)
        lane = world.dispatcher.lanes[1]
        world.connect()
        world.work(1)
        assert lane.credit == FIRST_CREDIT
        world.connect(100)  # out of credit, and somebody waits
        assert lane.credit == 2 * FIRST_CREDIT
        while world.backlog:
            world.work(1)
        assert lane.credit == MOST_CREDIT

    def test_not_while_somebody_is_late(self):
        world = world_of(1)
        world.connect(FIRST_CREDIT)
        world.advance(2 * LATE_AFTER)
        world.connect(10)
        assert not world.dispatcher.starved(world.now)
        assert world.dispatcher.lanes[1].credit == FIRST_CREDIT

    def test_it_falls_to_one_when_a_pick_up_was_slow(self):
        world = world_in_full_credit()
        world.connect()
        world.advance(2 * SLOW_PICK_UP)
        world.work(1)
        assert world.dispatcher.lanes[1].credit == 1

    def test_it_stays_where_all_pick_ups_take_so_long(self):
        """On a machine without time for anybody, a worker that waits for a processor is like the others."""
        world = world_of(1, batch=16)
        for _ in range(60):
            world.connect()
            world.now += 2 * SLOW_PICK_UP
            world.work(1)
        assert world.dispatcher.lanes[1].credit >= FIRST_CREDIT


class TestCost:
    """Where handlers take long, connections go out one by one."""

    def costly(self, world, each):
        """Its worker has acknowledged connections and said that it was busy so long with each."""
        world.cost = each
        for _ in range(60):
            world.connect()
            world.work(1)
        return world.dispatcher

    def test_dear_ones_are(self):
        assert self.costly(world_of(1, batch=16), 2 * COSTLY).is_costly

    def test_cheap_ones_are_not(self):
        assert not self.costly(world_of(1, batch=16), COSTLY / 4).is_costly

    def test_to_wait_for_a_worker_costs_it_nothing(self):
        """Where processors are short everybody waits, also for workers with nothing to do."""
        world = world_of(1, batch=16)
        for _ in range(60):
            world.connect()
            world.now += 4 * COSTLY
            world.work(1)
        assert not world.dispatcher.is_costly

    def test_who_does_not_measure_changes_nothing(self):
        assert self.costly(world := world_of(1, batch=16), 2 * COSTLY).is_costly
        assert self.costly(world, 0.0).is_costly

    def test_then_credit_does_not_grow_and_what_has_grown_is_not_used(self):
        world = world_in_full_credit()
        self.costly(world, 2 * COSTLY)
        world.connect(50)
        assert world.dispatcher.lanes[1].outstanding == FIRST_CREDIT
        assert not world.dispatcher.starved(world.now)

    def test_and_it_is_cheap_again_when_they_are(self):
        dispatcher = self.costly(world := world_of(1, batch=16), 2 * COSTLY)
        self.costly(world, COSTLY / 4)
        assert not dispatcher.is_costly


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

    def test_nobody_is_put_behind_one_that_is_overdue_not_even_if_all_are(self):
        world = world_of(2)
        world.connect(2)
        world.advance(2 * RECALL_AFTER)
        world.connect(2)
        assert world.given == {1: 1, 2: 1}
        assert len(world.backlog) == 2
        world.work(2)  # whoever is free first
        assert world.given == {1: 1, 2: 2}

    def test_what_lies_too_long_is_taken_back_when_somebody_else_has_room(self):
        world = world_of(2)
        world.workers[1].stands_still = True
        world.connect(2)
        world.work(2)
        world.advance(2 * RECALL_AFTER)
        assert world.given == {1: 1, 2: 2}
        assert world.dispatcher.lanes[1].is_stalled
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
        assert not world.dispatcher.lanes[1].is_stalled
        world.connect()
        assert world.given[1] == 2

    def test_nothing_is_taken_back_while_nobody_has_room(self):
        world = world_of(2)
        for it in world.workers.values():
            it.stands_still = True
        world.connect(100)
        world.advance(1)  # all are late, and are served as far as their credit goes
        before = [len(it.belt) for it in world.workers.values()]
        world.advance(1)
        assert [len(it.belt) for it in world.workers.values()] == before
        assert not any(lane.is_stalled for lane in world.dispatcher.lanes.values())

    def test_one_that_has_taken_all_and_blocks_needs_no_probe(self):
        world = world_of(2)
        world.connect(2)
        world.read(1)
        world.work(2)
        world.workers[1].stands_still = True
        world.advance(2 * RECALL_AFTER)
        lane = world.dispatcher.lanes[1]
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
        assert world.dispatcher.lanes[1].is_stalled
        world.give_back(1, 0)
        world.check()
        world.settle()
        assert world.picked_up == {1, 2}

    @given(
        st.floats(0.0, 1e6, allow_nan=False),
        st.sampled_from([LATE_AFTER, RECALL_AFTER, 0.001, 0.1, 1.0]),
    )
    @settings(max_examples=300)
    def test_at_the_moment_it_names_the_answer_has_changed(self, now, step):
        """Also on a loop whose clock has whole milliseconds, or whose timer comes to the very tick."""
        dispatcher = Dispatcher(late_after=step, recall_after=2 * step)
        first, second = dispatcher.join(1), dispatcher.join(2)
        dispatcher.hand(first, now)
        late_at = dispatcher.next_look(now)
        assert late_at is not None
        assert late_at == pytest.approx(now + step, abs=1e-5)
        for _ in range(FIRST_CREDIT):
            dispatcher.hand(second, late_at)
        assert first.is_late(late_at - dispatcher._late_limit)
        dispatcher.acknowledged(2, FIRST_CREDIT, late_at)
        overdue_at = dispatcher.next_look(late_at)
        assert overdue_at is not None
        assert overdue_at >= now + dispatcher._overdue_limit
        assert dispatcher.overdue(overdue_at) == [first]
        assert dispatcher.next_look(overdue_at) is None  # waiting changes nothing more


class TestComingAndGoing:
    def test_what_the_dead_had_not_read_goes_to_others(self):
        world = world_of(2, batch=16)
        world.connect(4)
        world.read(1)
        world.connect(2)
        taken = set(world.workers[1].taken.values())
        world.leave(1)
        world.check()
        world.settle()
        assert world.lost == taken
        assert world.picked_up == world.accepted - taken

    def test_the_last_one_leaves_and_they_wait_for_the_next(self):
        world = world_of(1)
        world.connect(5)
        world.leave(1)
        assert world.dispatcher.choose(world.now) is None
        world.check()
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
        assert world.dispatcher.lanes[1].pauses == {Pause.BELT}
        world.workers[1].belt_takes = True
        world.settle()
        assert world.picked_up == {1, 2}

    def test_one_that_is_given_no_more_may_give_back_what_it_has_once(self):
        world = world_of(2)
        world.connect(2)
        world.read(1)
        world.rest(1)
        assert list(world.dispatcher._left[1].pending) == [1]
        world.give_back(1, 0)
        world.check()
        with pytest.raises(ProtocolError, match="which it does not have"):
            world.dispatcher.returned(1, 1)
        world.settle()
        assert world.picked_up == {1, 2}

    def test_one_that_comes_back_goes_on_with_its_numbers(self):
        """Or what it gives back from before would be taken for what it was given since."""
        world = world_of(1)
        world.connect()
        world.read(1)
        world.rest(1)
        world.join(1)
        world.connect()
        assert list(world.dispatcher.lanes[1].pending) == [1, 2]

    def test_words_of_those_who_are_gone_are_violations(self):
        dispatcher = Dispatcher()
        with pytest.raises(ProtocolError, match="only 0 were handed over"):
            dispatcher.acknowledged(7, 99, 0.0)
        with pytest.raises(ProtocolError, match="which it does not have"):
            dispatcher.returned(7, 99)
        dispatcher.pause(7, Pause.FULL)
        dispatcher.resume(7, Pause.FULL)
        dispatcher.leave(7)
        assert dispatcher.forget(7) == 0
        assert dispatcher.choose(0.0) is None
        assert dispatcher.overdue(0.0) == []
        assert dispatcher.next_look(0.0) is None
        assert not dispatcher.starved(0.0)
