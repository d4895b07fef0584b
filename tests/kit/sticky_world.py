"""A `World` under the policy `sticky`: its connections belong to clients, and its workers sit in slots."""

from everycore.core.lanes import RECALL_AFTER, Pause
from everycore.core.sticky import MOST_WAITING, SPARE, StickyDispatcher, StickyLanes, best
from tests.kit.dispatch_law import TICK
from tests.kit.dispatch_world import World
from tests.kit.seats import FakeSeat

#: Why a worker's clients go to another worker.
ABSENT = {Pause.FULL, Pause.FINISHING, Pause.STALLED}


class StickyWorld(World):
    """`client`: the client that connects next; None: one without an address."""

    lanes: StickyLanes
    dispatcher: StickyDispatcher[int]

    def __init__(self, recall_after: float = RECALL_AFTER) -> None:
        self.recall_after = recall_after
        self.client: bytes | None = b"one"
        self.clients: dict[int, bytes | None] = {}
        self.seats: dict[int, FakeSeat] = {}
        #: Worker -> its slot, if that is not its number less one.
        self.slots: dict[int, int] = {}
        super().__init__()

    def make_dispatcher(self) -> StickyDispatcher[int]:
        return StickyDispatcher(StickyLanes(recall_after=self.recall_after), lambda c: self.clients[c])

    def connect(self, count: int = 1) -> None:
        for number in range(self.last_connection + 1, self.last_connection + 1 + count):
            self.clients[number] = self.client
        super().connect(count)

    def join(self, worker: int, batch: int = 1, room: int | None = None) -> None:
        seat = self.seats.setdefault(worker, FakeSeat(self.slots.get(worker, worker - 1)))
        self.dispatcher.seat(worker, seat)
        super().join(worker, batch, room)

    def there(self) -> dict[int, int]:
        """Slot -> the worker that serves its clients: of two in one slot, the younger."""
        found = {}
        for worker in sorted(self.lanes.lanes):
            if not self.lanes.lanes[worker].pauses & ABSENT:
                found[self.seats[worker].slot] = worker
        return found

    def put(self, worker: int, first: int, connections: list[int]) -> None:
        if self.dispatcher.finishing is None:
            for connection in connections:
                self._check_place(worker, connection)
        super().put(worker, first, connections)

    def _check_place(self, worker: int, connection: int) -> None:
        client, there = self.clients[connection], self.there()
        assert there[self.seats[worker].slot] == worker, "given to a worker that is not there"
        if client is not None and there[best(client, there)] != worker:
            assert self.load(there[best(client, there)]) > SPARE, "given to another than its own worker"

    def load(self, worker: int) -> int:
        """The connections of a worker that are open or handed over, or might wait for it."""
        lane = self.lanes.lanes[worker]
        return max(self.seats[worker].open, 0) + lane.outstanding + len(self.dispatcher.arrivals.queue)

    def check_waits(self) -> None:
        """No connection waits that a worker could have now, and every wait has an end."""
        orders = self.dispatcher.orders
        assert orders.look_at is None or orders.look_at > self.now
        if orders.look_at is not None and orders.look_at - self.now < TICK:
            return
        lanes, there = self.lanes.lanes, self.there()
        may_accept = self.listens and self.now >= self.accepts_at
        queue = self.dispatcher.arrivals.queue
        if self.dispatcher.finishing is None and there:
            for connection in queue:
                client = self.clients[connection]
                own = there.values() if client is None else [there[best(client, there)]]
                for worker in own:
                    is_over = self.load(worker) > SPARE
                    assert is_over or not self.lanes.may_have(lanes[worker]), "it waits in vain"
            if self.backlog and may_accept and len(queue) < MOST_WAITING:
                assert not all(self.lanes.may_have(lanes[worker]) for worker in there.values())
        if any(lane.pending and not lane.is_stalled for lane in lanes.values()):
            assert orders.look_at is not None, "nobody would look for what is to be recalled"
