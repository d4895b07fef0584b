"""The flow of one listener under the policy `sticky`, which gives each client its own worker.

The client's address decides, so there is no late binding. A connection waits for its worker, on the belt or
in the queue, and the connections of other clients pass it. Rendezvous hashing assigns clients to slots: each
slot has a weight for each client, and the client belongs to the heaviest slot that is present. A slot that
comes or goes therefore moves only its own share of the clients. A worker that replaces another in its slot
moves no client.

A client goes to its next choice when its worker

* has more than its share (`BOUND`, `SPARE`) of the connections that are open or waiting;
* is full, leaves or is gone;
* has picked up nothing for `recall_after` (default: `STICKY_RECALL_AFTER`) although a connection lies on its
  belt, and another worker is well. It is then stalled, as in `core.lanes`, until it acknowledges something.

Invariants: those of `core.dispatch`. Of the connections accepted here, the queue holds at most
`MOST_WAITING`, so a worker that blocks occupies no more descriptors than that. A connection is accepted only
while some worker has room.

The hash is not Python's own: neither a restart nor another version of Python moves a client.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Collection
from typing import Final, Protocol, TypeVar

from everycore.core.arrivals import Accept, NoConnection
from everycore.core.dispatch import BURST, Dispatcher
from everycore.core.lanes import FIRST_CREDIT, MOST_CREDIT, TICK, Lane, Lanes, Pause
from everycore.core.policies import Policy

#: A worker has too many connections if it has over BOUND times the mean and over the mean plus SPARE.
BOUND: Final = 1.25
SPARE: Final = 32
#: Connections that may wait in the primary for workers that have no room.
MOST_WAITING: Final = 256
#: Seconds of silence after which a worker counts as stuck. Until then its sessions are worth the wait.
STICKY_RECALL_AFTER: Final = 2.0
#: Clients whose weights are remembered at most.
_REMEMBERED: Final = 8192
#: The weights that one hash gives, and for how many slots.
_WEIGHTS: Final = struct.Struct("<16I")
_BLOCK: Final = 16
#: The pauses that send a worker's clients elsewhere. (BELT is not among them: it ends in a moment.)
_ABSENT: Final = frozenset({Pause.FULL, Pause.FINISHING, Pause.STALLED})

C = TypeVar("C")


@functools.lru_cache(maxsize=_REMEMBERED)
def _weights(client: bytes, block: int) -> tuple[int, ...]:
    """Return the weights of `client` for the slots of one block."""
    import hashlib  # late: it loads OpenSSL, and other policies hash nothing

    salt = block.to_bytes(8, "little")
    return _WEIGHTS.unpack(hashlib.blake2b(client, digest_size=_WEIGHTS.size, salt=salt).digest())


def weight(client: bytes, slot: int) -> int:
    """Return the weight of `slot` for `client`. A client belongs to the heaviest slot that is present."""
    return _weights(client, slot // _BLOCK)[slot % _BLOCK]


def best(client: bytes, slots: Collection[int]) -> int:
    """Return the slot of `client` among `slots`, which is not empty. HOT."""
    try:
        return max(slots, key=_weights(client, 0).__getitem__)
    except IndexError:  # more than a block of slots
        return max(slots, key=functools.partial(weight, client))


class Seat(Protocol):
    """The facts about a worker that its lane does not hold."""

    @property
    def slot(self) -> int:
        """Its slot."""
        ...

    @property
    def open(self) -> int:
        """How many connections it has. This is a hint: the worker itself reports it."""
        ...


class StickyLanes(Lanes):
    """Lanes whose credit does not follow demand: the client decides the lane.

    `recall_after` counts from a worker's last acknowledgement: a worker that works through its belt is not
    stuck.
    """

    def __init__(self, policy: Policy | None = None, *, recall_after: float = STICKY_RECALL_AFTER) -> None:
        super().__init__(policy, recall_after=recall_after)

    def join(self, worker: int, batch: int = 1, room: int | None = None) -> Lane:
        """As `Lanes.join`."""
        lane = super().join(worker, batch, room)
        lane.credit = MOST_CREDIT
        return lane

    def acknowledged(self, worker: int, last: int, now: float, cost: float = 0.0) -> None:
        """As `Lanes.acknowledged`."""
        super().acknowledged(worker, last, now, cost)
        lane = self.lane_of(worker)
        assert lane is not None
        lane.credit = MOST_CREDIT
        for number in lane.pending:
            lane.pending[number] = now

    def overdue(self, now: float) -> list[Lane]:
        """As `Lanes.overdue`, except that other lanes need no room: connections can wait for them too."""
        limit = now - self._overdue_limit
        overdue = [lane for lane in self.lanes.values() if not lane.is_stalled and lane.is_late(limit)]
        others = any(not lane.pauses and not lane.is_late(limit) for lane in self.lanes.values())
        return overdue if others else []

    def may_have(self, lane: Lane) -> bool:
        """Whether one more connection may be put on the belt of `lane`."""
        count = len(lane.pending)
        most = FIRST_CREDIT if self.is_costly else MOST_CREDIT
        return count < most and (lane.room is None or count < lane.room) and Pause.BELT not in lane.pauses

    def next_overdue(self, now: float) -> float | None:
        """Return when to look for overdue connections, or None if no belt holds any.

        While overdue connections can go to no other lane, this is due again and again.
        """
        limit = self._overdue_limit
        soonest: float | None = None
        for lane in self.lanes.values():
            oldest = lane.oldest()
            if oldest is None or lane.is_stalled:
                continue
            at = (oldest if oldest + limit > now else now) + limit + TICK
            if soonest is None or at < soonest:
                soonest = at
        return soonest


class StickyDispatcher(Dispatcher[C]):
    """The flow of one listener. `client_of` returns a connection's client, or None if that has no address.

    Connections without an address are given out in turn.
    """

    lanes: StickyLanes

    def __init__(self, lanes: StickyLanes, client_of: Callable[[C], bytes | None]) -> None:
        super().__init__(lanes)
        self._client_of = client_of
        self._seats: dict[int, Seat] = {}
        #: Slot -> the lane of the worker that is present in it.
        self._there: dict[int, Lane] = {}
        #: Lane -> how many queued connections wait for it. None stands for any lane.
        self._waits: dict[Lane | None, int] = {}

    def seat(self, worker: int, seat: Seat) -> None:
        """Set the seat of `worker`. Call this before it joins."""
        self._seats[worker] = seat

    def forget(self, worker: int) -> int:
        """As `Dispatcher.forget`."""
        self._seats.pop(worker, None)
        return super().forget(worker)

    def came_back(self, worker: int, first: int, count: int, connections: list[C]) -> None:
        """As `Dispatcher.came_back`."""
        super().came_back(worker, first, count, connections)
        self._waits.clear()  # which lanes these wait for is not known yet

    def _take_back(self, lane: Lane, first: int, connections: list[C]) -> None:
        super()._take_back(lane, first, connections)
        self._waits.clear()

    def _look_for_late(self, now: float) -> None:
        due = self._alarm.at
        if due is not None and due <= now + self.lanes.recall_after:
            return  # what was just handed over is not overdue any sooner
        at = self.lanes.next_overdue(now)
        if at is not None:
            self._alarm.wake(at)

    # --- whose worker -------------------------------------------------------------------------------------

    def _gather(self) -> bool:
        """Find the lanes that are present in this turn. Returns whether one of them has room."""
        there: dict[int, Lane] = {}
        seats = self._seats
        for worker, lane in self.lanes.lanes.items():
            if lane.pauses and not _ABSENT.isdisjoint(lane.pauses):
                continue
            slot = seats[worker].slot
            if (
                slot not in there or there[slot].worker < worker
            ):  # in a reload, the new one beside the old one
                there[slot] = lane
        if there != self._there:
            self._there = there
            self._waits.clear()
        return self._has_room()

    def _has_room(self) -> bool:
        return any(map(self.lanes.may_have, self._there.values()))

    def _home(self, connection: C) -> Lane | None:
        """Return the lane for `connection`. None if any lane may have it and none has room."""
        there, client = self._there, self._client_of(connection)
        if client is None:
            free = [lane for lane in there.values() if self.lanes.may_have(lane)]
            return self.lanes.policy.pick(free) if free else None
        lane = there[best(client, there)]
        if self._load(lane) <= SPARE or not self._has_too_many(lane):
            return lane
        slots = set(there)
        while len(slots) > 1:
            slots.discard(self._seats[lane.worker].slot)
            lane = there[best(client, slots)]
            if not self._has_too_many(lane):
                break
        return lane

    def _load(self, lane: Lane) -> int:
        """Return how many connections are open at `lane`, handed over to it, or waiting for it."""
        return max(self._seats[lane.worker].open, 0) + len(lane.pending) + self._waits.get(lane, 0)

    def _has_too_many(self, lane: Lane) -> bool:
        """Whether `lane` has more than its share."""
        mean = sum(map(self._load, self._there.values())) / len(self._there)
        return self._load(lane) > max(BOUND * mean, mean + SPARE)

    # --- connections go out -------------------------------------------------------------------------------

    def _wait_on(self) -> bool:
        """Whether no queued connection waits for a lane that may have it.

        There may be many, and a turn for each connection of other clients. So this does not ask each of them.
        """
        waits = self._waits
        if None in waits or sum(waits.values()) != len(self.arrivals.queue):
            return False
        return not any(lane is not None and self.lanes.may_have(lane) for lane in waits)

    def _shares(self, now: float, accept: Accept[C], *, woken: bool) -> dict[Lane, list[C]]:
        """Share out the queued connections in their order, and then new ones."""
        queue = self.arrivals.queue
        shares: dict[Lane, list[C]] = {}
        self._starving = not self._gather()
        if self._starving:
            return shares
        if queue and not self._wait_on():
            self._waits.clear()
            for _ in range(len(queue)):
                self._place(queue.popleft(), now, shares)
        may_accept = self.arrivals.flows and self._alarm.accept_at is None
        for _ in range(BURST if may_accept else 0):
            if len(queue) >= MOST_WAITING or not self._has_room():
                self._starving = True
                break
            accepted = accept()
            if isinstance(accepted, NoConnection):
                self._is_closed = accepted is NoConnection.CLOSED
                break
            self.arrivals.accepted += 1
            self._place(accepted, now, shares)
        return shares

    def _place(self, connection: C, now: float, shares: dict[Lane, list[C]]) -> None:
        """Hand `connection` over, or queue it for its worker behind those that wait already."""
        lane = self._home(connection)
        if lane is None or not self.lanes.may_have(lane):
            self.arrivals.queue.append(connection)
            self._waits[lane] = self._waits.get(lane, 0) + 1
            return
        self.lanes.hand(lane, now)
        if lane in shares:
            shares[lane].append(connection)
        else:
            shares[lane] = [connection]
