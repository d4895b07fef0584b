"""A listener's backlog, belts, workers and time, all in memory, around the real dispatcher.

`World` does what a driver does and no more: it takes connections out of the backlog as the dispatcher asks,
puts its messages on belts, reads belts back, and obeys the orders. It decides nothing, and checks that the
decisions keep the law. Its workers read, acknowledge, give back, fill up, stand still and die.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from everycore.core.arrivals import NoConnection
from everycore.core.dispatch import BELT_PAUSE, BURST, MOST_AT_THE_END, Dispatcher
from everycore.core.lanes import MOST_CREDIT
from tests.kit.dispatch_law import check, check_waits
from tests.kit.watched_lanes import WatchedLanes, picture

#: The pause in seconds after accepting has failed, as in `system.accepting`.
ACCEPT_PAUSE = 0.1


@dataclass
class Message:
    """A message on a belt: a number for each connection. A probe has none."""

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
    #: Number -> connection (None: a probe) that was taken off the belt and not yet acknowledged.
    taken: dict[int, int | None] = field(default_factory=dict)
    stands_still: bool = False
    is_full: bool = False
    #: Whether its belt takes what it is sent, and until when the belt rests since it did not.
    belt_takes: bool = True
    belt_rests_until: float = 0.0
    #: The worker leaves, and has been given all that came, or is being given them.
    finishes: bool = False
    #: The worker is given no more, and still has what it has taken.
    rests: bool = False


class World:
    """A listener with its workers, and time."""

    def __init__(self) -> None:
        self.dispatcher = self.make_dispatcher()
        self.lanes = self.dispatcher.lanes
        self.now = 1000.0
        #: The seconds that a connection costs, as workers report them; 0: they report nothing.
        self.cost = 0.0
        self.workers: dict[int, Worker] = {}
        self.last_connection = 0
        self.backlog: deque[int] = deque()
        #: accept(2) fails from now on; it failed, and must not be tried again before.
        self.accept_fails = False
        self.accepts_at = 0.0
        self.listens = False
        self.accepted: set[int] = set()
        self.picked_up: set[int] = set()
        self.lost: set[int] = set()  # picked up, or about to be, by a worker that died or closed
        self.given: dict[int, int] = {}  # worker -> the number of connections it got, with recalled ones
        #: The messages in the order in which they were put on belts: worker, connections.
        self.sent: list[tuple[int, list[int]]] = []

    def make_dispatcher(self) -> Dispatcher[int]:
        return Dispatcher(WatchedLanes())

    def check_waits(self) -> None:
        check_waits(self)

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
            assert not self.dispatcher.arrivals.queue
            assert not self.backlog or len(self.accepted) >= MOST_AT_THE_END
            self.listens = False
            self.dispatcher.arrivals.cease()

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
        """Do what the loop does while no time passes."""
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
        """Handle an input."""
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
        """Let the worker ask to be served, or have room again."""
        it = self.workers.setdefault(worker, Worker(batch))
        it.batch, it.room, it.is_full, it.rests = batch, room, False, False
        finishing = self.dispatcher.finishing
        if finishing is not None and finishing != worker:
            self.rest(finishing)
        self.listens = True
        self.dispatcher.arrivals.begin()
        self.dispatcher.join(worker, batch, room)
        self.turn()
        self.obey()

    def rest(self, worker: int) -> None:
        """Let the worker leave. What it has not read is taken back; what it has read stays its own."""
        self.read_back(worker)
        self.workers[worker].rests = True
        self.dispatcher.leave(worker)
        self.hear()

    def finish(self, worker: int, *, at_once: bool = False) -> None:
        """Ask the last worker to leave; `at_once`: it leaves without being asked."""
        if self.workers[worker].finishes and self.dispatcher.finishing != worker:
            return  # it has them already
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
            self.dispatcher.arrivals.cease()
        self.obey()

    def leave(self, worker: int) -> None:
        """Let the worker die or close: what it has not read is taken back."""
        self.read_back(worker)
        gone = self.workers.pop(worker)
        lost = {connection for connection in gone.taken.values() if connection is not None}
        assert self.dispatcher.forget(worker) == len(lost), "a probe is no connection"
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
        """One turn of a healthy loop."""
        while self.read(worker):
            pass
        self.acknowledge(worker)

    # --- the end --------------------------------------------------------------------------------------

    def settle(self, *, steps: int = 400) -> None:
        """Let the able workers work until everything is picked up."""
        for _ in range(steps):
            if not self._has_work():
                return
            for worker, it in list(self.workers.items()):
                if not it.stands_still:
                    self.work(worker)
            self.advance(0.001)
            check(self)
        raise AssertionError(
            f"waiting for ever: backlog {list(self.backlog)}, queue {list(self.dispatcher.arrivals.queue)},"
            f" {self.workers}, {picture(self.lanes)}"
        )

    def _has_work(self) -> bool:
        if self.backlog or self.dispatcher.arrivals.queue or any(it.belt or it.taken for it in self.alive()):
            return True
        stuck = [it for it in self.workers.values() if it.stands_still]
        return any(message.connections for it in stuck for message in it.belt)

    def alive(self) -> list[Worker]:
        return [it for it in self.workers.values() if not it.stands_still]


def world_of(count: int, batch: int = 1) -> World:
    """A world with `count` workers."""
    world = World()
    for worker in range(1, count + 1):
        world.join(worker, batch)
    return world


def world_in_full_credit() -> World:
    """One worker with all the credit that there is, grown by demand, and nothing under way."""
    world = world_of(1, batch=16)
    while world.lanes.lanes[1].credit < MOST_CREDIT:
        world.connect(50)
        world.work(1)
    world.settle()
    return world
