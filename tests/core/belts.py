"""A listener's backlog, belts, workers and time, all in memory, around the real dispatcher.

`World` does what a driver does and no more: it takes what the dispatcher asks for out of the backlog, puts its
messages on belts, reads belts back, and obeys the orders. It decides nothing; it only watches that what is
decided keeps the law. Its workers read, acknowledge, give back, fill up, stand still and die.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from everycore.core.dispatch import BELT_PAUSE, BURST, MOST_AT_THE_END, Dispatcher, NoConnection
from everycore.core.lanes import FIRST_CREDIT, MOST_CREDIT, Lane, Lanes, Pause
from everycore.core.policies import MOST_ARREARS

#: Seconds that accepting pauses after it failed, as in `system.accepting`.
ACCEPT_PAUSE = 0.1
#: The dispatcher may look so much after a limit: see `lanes._TICK`.
TICK = 2e-6


@dataclass
class Message:
    """What lies on a belt: a number for each connection; a probe has none."""

    first: int
    connections: list[int]

    @property
    def count(self) -> int:
        return max(len(self.connections), 1)

    def numbered(self) -> Iterator[tuple[int, int | None]]:
        """Each number with its connection."""
        if not self.connections:
            yield self.first, None
        yield from enumerate(self.connections, self.first)


@dataclass
class Worker:
    batch: int
    room: int | None = None
    belt: deque[Message] = field(default_factory=deque)
    #: Number -> connection (None: a probe), taken off the belt and not yet acknowledged.
    taken: dict[int, int | None] = field(default_factory=dict)
    stands_still: bool = False
    is_full: bool = False
    #: Whether its belt takes what it is sent; and until when it rests since it did not.
    belt_takes: bool = True
    belt_rests_until: float = 0.0
    #: It leaves, and has been given all who came, or is being given them.
    finishes: bool = False
    #: It is given no more, and still has what it has taken.
    rests: bool = False


class WatchedLanes(Lanes):
    """Lanes that watch what the dispatcher makes of them."""

    def choose(self, now: float) -> Lane | None:
        before = picture(self)
        lane = super().choose(now)
        assert picture(self) == before, "choose changed something"
        if lane is not None:
            self._check_choice(lane, now)
        return lane

    def hand(self, lane: Lane, now: float) -> int:
        number = super().hand(lane, now)
        assert lane.credit <= MOST_CREDIT
        assert lane.outstanding <= lane.credit or Pause.FINISHING in lane.pauses
        assert lane.room is None or lane.outstanding <= lane.room
        assert self._most_given - lane.given <= MOST_ARREARS
        return number

    def _check_choice(self, chosen: Lane, now: float) -> None:
        """Strictly in turn among those with credit that are not late; late ones only if all are."""
        limit = now - self._late_limit
        open_lanes = [lane for lane in self.lanes.values() if not lane.pauses]
        assert chosen in open_lanes
        if chosen.is_late(limit):
            assert all(lane.is_late(limit) for lane in open_lanes)
        most = FIRST_CREDIT if self.is_costly else MOST_CREDIT
        blocked = now - self._overdue_limit
        rivals = [
            lane
            for lane in open_lanes
            if lane.has_room and lane.outstanding < most and not lane.is_late(blocked)
            if lane.is_late(limit) == chosen.is_late(limit)
        ]
        assert chosen in rivals
        assert chosen.given == min(lane.given for lane in rivals)
        assert chosen is next(lane for lane in rivals if lane.given == chosen.given)


def picture(lanes: Lanes) -> object:
    """All there is to know about the lanes, to see whether something changed."""
    each = [
        (
            worker,
            *(getattr(lane, name) for name in Lane.__slots__ if name not in ("pending", "pauses")),
            tuple(lane.pending.items()),
            frozenset(lane.pauses),
        )
        for those in (lanes.lanes, lanes._left)
        for worker, lane in those.items()
    ]
    others = {name: value for name, value in vars(lanes).items() if name not in ("lanes", "_left")}
    return each, list(lanes._left), others


class World:
    """A listener with its workers, and time."""

    def __init__(self) -> None:
        self.lanes = WatchedLanes()
        self.dispatcher: Dispatcher[int] = Dispatcher(self.lanes)
        self.now = 1000.0
        #: Seconds that workers say a connection costs them; 0: they don't say.
        self.cost = 0.0
        self.workers: dict[int, Worker] = {}
        self.last_connection = 0
        self.backlog: deque[int] = deque()
        #: accept(2) fails from now on; it failed, and is not to be tried again before.
        self.accept_fails = False
        self.accepts_at = 0.0
        self.listens = False
        self.accepted: set[int] = set()
        self.picked_up: set[int] = set()
        self.lost: set[int] = set()  # picked up, or on their way to it, by a worker that died or closed
        self.given: dict[int, int] = {}  # worker -> connections it got, recalled ones included
        #: The messages in the order in which they were put on belts: worker, connections.
        self.sent: list[tuple[int, list[int]]] = []

    # --- what a driver does -------------------------------------------------------------------------------

    def accept(self) -> int | NoConnection:
        assert self.listens, "accepted with no worker ready"
        assert self.now >= self.accepts_at, "accepted during the pause"
        if self.accept_fails:
            self.accepts_at = self.now + ACCEPT_PAUSE
            self.dispatcher.resume_accepting_at(self.accepts_at)
            return NoConnection.TROUBLE
        if not self.backlog:
            return NoConnection.EMPTY
        connection = self.backlog.popleft()
        self.accepted.add(connection)
        return connection

    def turn(self, *, woken: bool = False) -> None:
        finishing = self.dispatcher.finishing
        before = len(self.accepted)
        for worker, first, connections in self.dispatcher.turn(self.now, self.accept, woken=woken):
            self.put(worker, first, connections)
        assert len(self.accepted) - before <= (BURST if finishing is None else MOST_AT_THE_END + 16)
        if finishing is not None and self.dispatcher.finishing is None:
            assert not self.dispatcher.queue
            assert not self.backlog or len(self.accepted) >= MOST_AT_THE_END
            self.listens = False
            self.dispatcher.cease()

    def put(self, worker: int, first: int, connections: list[int]) -> None:
        it = self.workers[worker]
        assert not it.is_full, "given to a worker that is full"
        assert not it.rests, "given to a worker that was to be given no more"
        assert self.now >= it.belt_rests_until, "its belt was tried while it rests"
        assert 1 <= len(connections) <= (1 if self.lanes.is_costly else it.batch)
        if not it.belt_takes:
            it.belt_rests_until = self.now + BELT_PAUSE
            self.dispatcher.refused(worker, self.now)
            return
        it.belt.append(Message(first, connections))
        self.given[worker] = self.given.get(worker, 0) + len(connections)
        self.sent.append((worker, connections))

    def obey(self) -> None:
        """What the loop does without time passing."""
        while True:
            orders = self.dispatcher.orders
            if orders.turn_soon:
                self.turn()
            elif orders.poll and self.backlog:
                waited = len(self.backlog)
                self.turn(woken=True)
                assert len(self.backlog) < waited or not self.dispatcher.orders.poll, "a busy loop"
            else:
                return

    def hear(self) -> None:
        """Something came in."""
        if self.dispatcher.needs_turn:
            self.turn()
        self.obey()

    def look(self) -> None:
        for worker in self.dispatcher.look(self.now):
            lane = self.lanes.lanes[worker]
            assert not lane.is_stalled
            assert lane.is_late(self.now - self.lanes._overdue_limit)
            self.read_back(worker)
            probe = self.dispatcher.recalled(worker, self.now)
            if probe is not None and self.workers[worker].belt_takes:
                self.workers[worker].belt.append(Message(probe, []))
            elif probe is not None:
                self.dispatcher.came_back(worker, probe, 1, [])
                assert not lane.is_stalled
                continue
            assert lane.pending, "nobody would ever hear of it again"
        self.hear()

    def read_back(self, worker: int) -> None:
        belt = self.workers[worker].belt
        while belt:
            message = belt.popleft()
            self.dispatcher.came_back(worker, message.first, message.count, message.connections)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.dispatcher.orders.look_at) is not None and at <= until:
            assert at > self.now, "it would look again and again"
            self.now = at
            self.look()
        self.now = until
        self.obey()

    # --- listeners' affairs -------------------------------------------------------------------------------

    def connect(self, count: int = 1) -> None:
        for _ in range(count):
            self.last_connection += 1
            self.backlog.append(self.last_connection)
        self.obey()

    def join(self, worker: int, batch: int = 1, room: int | None = None) -> None:
        """It asks to be served, or has room once more."""
        it = self.workers.setdefault(worker, Worker(batch))
        it.batch, it.room, it.is_full, it.rests = batch, room, False, False
        finishing = self.dispatcher.finishing
        if finishing is not None and finishing != worker:
            self.rest(finishing)
        self.listens = True
        self.dispatcher.begin()
        self.dispatcher.join(worker, batch, room)
        self.turn()
        self.obey()

    def rest(self, worker: int) -> None:
        """It is on its way out: what it has not read is taken back, what it has read is still its own."""
        self.read_back(worker)
        self.workers[worker].rests = True
        self.dispatcher.leave(worker)
        self.hear()

    def finish(self, worker: int, *, at_once: bool = False) -> None:
        """It is asked to leave, and is the last one."""
        for other, it in self.workers.items():
            if other != worker and not it.rests:
                self.rest(other)
        if not self.dispatcher.finish(worker):
            if not self.workers[worker].rests:
                self.rest(worker)
            return
        self.workers[worker].finishes = True
        self.turn()
        if at_once:
            self.dispatcher.end_finishing(worker)
            self.listens = False
            self.dispatcher.cease()
        self.obey()

    def leave(self, worker: int) -> None:
        """It dies, or closes: what it has not read is taken back."""
        self.read_back(worker)
        gone = self.workers.pop(worker)
        lost = {connection for connection in gone.taken.values() if connection is not None}
        assert self.dispatcher.forget(worker) == len(gone.taken)
        self.lost |= lost
        self.hear()

    # --- workers ------------------------------------------------------------------------------------------

    def read(self, worker: int) -> bool:
        it = self.workers[worker]
        if it.stands_still or not it.belt:
            return False
        it.taken.update(it.belt.popleft().numbered())
        return True

    def acknowledge(self, worker: int) -> None:
        it = self.workers[worker]
        if it.stands_still or not it.taken:
            return
        last = max(it.taken)
        self.picked_up |= {connection for connection in it.taken.values() if connection is not None}
        it.taken.clear()
        self.dispatcher.acknowledged(worker, last, self.now, self.cost)
        self.hear()

    def give_back(self, worker: int, which: int) -> None:
        it = self.workers[worker]
        numbers = [number for number, connection in it.taken.items() if connection is not None]
        if it.stands_still or not numbers:
            return
        number = numbers[which % len(numbers)]
        connection = it.taken.pop(number)
        assert connection is not None
        self.dispatcher.came_back(worker, number, 1, [connection])
        self.hear()

    def fill(self, worker: int) -> None:
        it = self.workers[worker]
        if not it.stands_still:
            it.is_full = True
            self.dispatcher.fill(worker)
            self.read_back(worker)
            self.hear()

    def work(self, worker: int) -> None:
        """One turn of a loop that is well."""
        while self.read(worker):
            pass
        self.acknowledge(worker)

    # --- the law ------------------------------------------------------------------------------------------

    def check(self) -> None:
        self._check_places()
        for worker, it in self.workers.items():
            self._check_account(worker, it)
        at_work = {worker for worker, it in self.workers.items() if not it.rests}
        assert set(self.lanes.lanes) == at_work
        assert set(self.lanes._left) == set(self.workers) - at_work
        self._check_waits()

    def _check_places(self) -> None:
        places = [
            list(self.dispatcher.queue),
            [c for it in self.workers.values() for message in it.belt for c in message.connections],
            [c for it in self.workers.values() for c in it.taken.values() if c is not None],
            list(self.picked_up),
            list(self.lost),
        ]
        everywhere = [connection for place in places for connection in place]
        assert sorted(everywhere) == sorted(self.accepted), "a connection is in two places, or in none"
        assert self.dispatcher.accepted == len(self.accepted)

    def _check_account(self, worker: int, it: Worker) -> None:
        lane = self.lanes.lane_of(worker)
        assert lane is not None
        numbers = [number for message in it.belt for number, _ in message.numbered()] + list(it.taken)
        assert sorted(lane.pending) == sorted(numbers), "the account is not what lies there"
        if not it.rests:
            expected = {Pause.FULL} if it.is_full else set()
            expected |= {Pause.BELT} if self.now < it.belt_rests_until else set()
            expected |= {Pause.FINISHING} if it.finishes else set()
            assert lane.pauses - {Pause.STALLED} == expected, "a reason was ended by another, or not at all"
        assert 1 <= lane.credit <= MOST_CREDIT
        if lane.is_stalled:
            assert lane.pending, "stalled, with nothing to be heard of"

    def _check_waits(self) -> None:
        """Nobody waits for what may be had now, and what may be had later is waited for."""
        look_at = self.dispatcher.orders.look_at
        assert look_at is None or look_at > self.now
        if look_at is not None and look_at - self.now < TICK:
            return
        may_accept = self.listens and self.now >= self.accepts_at
        waiting = list(self.dispatcher.queue) + (list(self.backlog) if may_accept else [])
        finishing = self.dispatcher.finishing
        if finishing is not None:
            it, lane = self.workers[finishing], self.lanes.lanes[finishing]
            is_stuck = self.now < it.belt_rests_until or not may_accept
            assert is_stuck or (it.room is not None and lane.outstanding >= it.room)
        elif waiting:
            assert self.lanes.choose(self.now) is None, "somebody waits, and a worker could have it"
        if self.now < self.accepts_at and self.listens:
            assert look_at is not None
        if self.lanes.overdue(self.now) and not self.lanes.is_costly:
            assert look_at is not None, "nobody would look for what is to be recalled"

    def settle(self, *, steps: int = 400) -> None:
        """Those who can, work; everything must be picked up."""
        for _ in range(steps):
            if not self._has_work():
                return
            for worker, it in list(self.workers.items()):
                if not it.stands_still:
                    self.work(worker)
            self.advance(0.001)
            self.check()
        raise AssertionError(
            f"waiting for ever: backlog {list(self.backlog)}, queue {list(self.dispatcher.queue)},"
            f" {self.workers}, {picture(self.lanes)}"
        )

    def _has_work(self) -> bool:
        if self.backlog or self.dispatcher.queue or any(it.belt or it.taken for it in self.alive()):
            return True
        stuck = [it for it in self.workers.values() if it.stands_still]
        return any(message.connections for it in stuck for message in it.belt)

    def alive(self) -> list[Worker]:
        return [it for it in self.workers.values() if not it.stands_still]


def world_of(count: int, batch: int = 1) -> World:
    """A world with so many workers."""
    world = World()
    for worker in range(1, count + 1):
        world.join(worker, batch)
    return world


def world_in_full_credit() -> World:
    """One worker, which demand has given all the credit there is, and nothing under way."""
    world = world_of(1, batch=16)
    while world.lanes.lanes[1].credit < MOST_CREDIT:
        world.connect(50)
        world.work(1)
    world.settle()
    return world
