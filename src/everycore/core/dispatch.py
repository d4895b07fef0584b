"""Which connection goes on which belt, and when: the whole flow of one listener that the primary distributes.

The inputs are events: a worker joined, acknowledged or gave back; a belt took no more; time has passed. The
outputs are orders: put these messages on those belts, read those belts back, watch the listener or stop
watching it, look again at a given time. `primary.listeners.distributor` carries them out. Connections are
opaque here. `now`, in seconds, is an argument. So is the backlog, a function that takes one connection out.

Invariants:

* An accepted connection is in the queue of `arrivals`, or in the account of one lane (`core.lanes`), or
  acknowledged.
* Every wait ends. As long as a connection is queued, or the backlog may have one, the orders say `poll` or
  `look_at`, or an outstanding acknowledgement will end the wait (`needs_turn`).
* When no worker has credit, connections stay in the kernel's backlog, where the first worker that is free
  gets them (late binding). The listener is not even polled then. (Node accepts without limit instead.)

The last worker that leaves is *finishing*: it is given every connection that had come, whatever its credit.
It gets them one message at a time, so that few are accepted for which its belt has no room or no descriptor
is left.

Before all workers leave, the dispatcher *shuts*: it takes in every connection that has come, whatever the
workers' credit, until the backlog is empty. At that moment the driver closes the listener. The workers leave
once no connection waits here or lies unread on a belt (`is_idle`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from everycore.core.arrivals import Accept, Arrivals, NoConnection
from everycore.core.lanes import Lane, Lanes, Pause

#: Connections handed out in one turn of the loop: acknowledgements and exits must get their turn too.
BURST: Final = 64
#: Seconds until a belt that took nothing is tried again (ETOOMANYREFS: too many descriptors in flight).
BELT_PAUSE: Final = 0.01
#: Connections that the last worker of a listener is given at most when it leaves: a backlog, but no flood.
MOST_AT_THE_END: Final = 4096

C = TypeVar("C")

#: What to put on a belt: the worker, the number of the first connection, and the connections.
Message: TypeAlias = tuple[int, int, list[C]]


class Orders(NamedTuple):
    """What the driver must do until the next input."""

    #: Watch the listener and, when it is readable, have a turn with `woken`.
    poll: bool
    #: The time at which to call `look`, if any.
    look_at: float | None
    #: Have another turn in the next turn of the loop.
    turn_soon: bool


class _Alarm:
    """The time of the next look, and what is paused until then."""

    __slots__ = ("accept_at", "at", "belts")

    def __init__(self) -> None:
        self.at: float | None = None
        #: When accepting is tried again; None if it is not paused.
        self.accept_at: float | None = None
        #: Worker -> the time at which its belt is tried again.
        self.belts: dict[int, float] = {}

    def wake(self, at: float) -> None:
        """Look again at `at`, or earlier."""
        if self.at is None or at < self.at:
            self.at = at

    def end_pauses(self, now: float) -> list[int]:
        """End the pauses that are over at `now`. Returns the workers whose belts may be tried again."""
        self.at = None
        over = [worker for worker, at in self.belts.items() if at <= now]
        for worker in over:
            del self.belts[worker]
        if self.accept_at is not None and self.accept_at <= now:
            self.accept_at = None
        for at in (*self.belts.values(), *(() if self.accept_at is None else (self.accept_at,))):
            self.wake(at)
        return over


class Dispatcher(Generic[C]):
    """The flow of one listener. After an input, have a `turn` if `needs_turn`; then follow `orders`."""

    def __init__(self, lanes: Lanes | None = None) -> None:
        self.lanes = lanes or Lanes()
        self.arrivals: Arrivals[C] = Arrivals()
        #: Connections that workers had and never acknowledged before they left.
        self.lost = 0
        #: The last worker, while it is being given every connection that had come.
        self.finishing: int | None = None
        #: No worker has credit: the listener is not polled until one has.
        self._starving = False
        #: The socket was found not to listen: it is not polled before the next turn.
        self._is_closed = False
        self._turn_soon = False
        self._alarm = _Alarm()
        #: The count of accepted connections at which the last worker has its full share.
        self._most = 0
        #: In this turn the last worker was given every connection that waits, unless its belt refuses them.
        self._has_all = False
        self._orders = Orders(poll=False, look_at=None, turn_soon=False)

    @property
    def orders(self) -> Orders:
        """The orders until the next input."""
        arrivals = self.arrivals
        poll = (
            arrivals.flows
            and not self._starving
            and not self._is_closed
            and self._alarm.accept_at is None
            and self.finishing is None
            and not arrivals.is_shutting
        )
        orders = self._orders
        if (
            poll is not orders.poll
            or self._alarm.at != orders.look_at
            or self._turn_soon is not orders.turn_soon
        ):
            self._orders = orders = Orders(poll, self._alarm.at, self._turn_soon)
        return orders

    @property
    def needs_turn(self) -> bool:
        """Whether the last input may let a connection go out although the listener is not readable."""
        arrivals = self.arrivals
        return self._starving or bool(arrivals.queue) or self.finishing is not None or arrivals.is_shutting

    @property
    def is_idle(self) -> bool:
        """Whether no connection waits here or lies on the belt of a worker that is not stalled."""
        return not self.arrivals.queue and self.lanes.are_idle

    def resume_accepting_at(self, at: float) -> None:
        """Accepting has failed: do not try again before `at`."""
        self._alarm.accept_at = at
        self._alarm.wake(at)

    # --- workers come and go ------------------------------------------------------------------------------

    def join(self, worker: int, batch: int = 1, room: int | None = None) -> None:
        """`worker` takes connections from now on, or has room again; see `Lanes.join`."""
        self.lanes.join(worker, batch, room)

    def leave(self, worker: int) -> None:
        """Give `worker` no more. It may still acknowledge or give back what it has."""
        self.end_finishing(worker)
        self.lanes.leave(worker)

    def forget(self, worker: int) -> int:
        """`worker` is gone and its belt is read back. Returns how many connections it never acknowledged."""
        self.end_finishing(worker)
        self._alarm.belts.pop(worker, None)
        lost = self.lanes.forget(worker)
        self.lost += lost
        return lost

    def finish(self, worker: int) -> bool:
        """Give `worker`, the last one, every connection that has come, a portion per turn.

        This goes on until `finishing` is None again. Returns False, having done nothing, if the worker takes
        none because it is full or never asked for any.
        """
        lane = self.lanes.lanes.get(worker)
        if lane is None or Pause.FULL in lane.pauses:
            return False
        self.lanes.pause(worker, Pause.FINISHING)
        # Another worker that comes may have these connections once they are overdue.
        self.lanes.resume(worker, Pause.STALLED)
        if self.finishing is None:
            self._most = self.arrivals.accepted + MOST_AT_THE_END
        self.finishing = worker
        return True

    def end_finishing(self, worker: int) -> None:
        """If `worker` is finishing, give it no more than it has."""
        if self.finishing == worker:
            self.finishing = None

    # --- what workers say ---------------------------------------------------------------------------------

    def acknowledged(self, worker: int, last: int, now: float, cost: float = 0.0) -> None:
        """`worker` picked up all connections up to number `last`. Raises as `Lanes.acknowledged` does."""
        self.lanes.acknowledged(worker, last, now, cost)

    def came_back(self, worker: int, first: int, count: int, connections: list[C]) -> None:
        """Queue `count` connections again, from number `first`, that were given back or read back.

        `connections` are fewer than `count` for a probe, or if the kernel dropped some. Raises ProtocolError,
        having changed nothing, if `worker` does not have them.
        """
        self.lanes.returned(worker, first, count)
        if (lane := self.lanes.lane_of(worker)) is not None:
            lane.returned += len(connections)
        self.arrivals.queue.extend(connections)

    def fill(self, worker: int) -> None:
        """`worker` is full until it joins again. The driver must read its belt back."""
        self.lanes.pause(worker, Pause.FULL)
        self.end_finishing(worker)

    # --- connections go out -------------------------------------------------------------------------------

    def turn(self, now: float, accept: Accept[C], *, woken: bool = False) -> Iterator[Message[C]]:
        """Yield the messages to put on belts now. If a belt refuses one, call `refused` before the next one.

        `woken`: the listener was found readable. HOT: runs at least once per connection.
        """
        self._turn_soon = self._is_closed = self._has_all = False
        arrivals = self.arrivals
        if arrivals.is_shutting and self._alarm.accept_at is None:
            self._turn_soon = arrivals.take_in(accept, BURST)
        was_starving, is_finishing = self._starving, self.finishing is not None
        shares = self._portion(now, accept) if is_finishing else self._shares(now, accept, woken=woken)
        # When no worker had credit, the next look may have been left to an acknowledgement. If the finishing
        # worker is slow to take a connection, another one that comes meanwhile may have it.
        if shares or was_starving or self._starving or is_finishing:
            self._look_for_late(now)
        is_costly = self.lanes.is_costly
        while shares:
            for lane, share in shares.items():
                first = lane.next_number - len(share)
                size = 1 if is_costly else lane.batch
                for start in range(0, len(share), size):
                    yield lane.worker, first + start, share[start : start + size]
                    if lane.pauses and Pause.BELT in lane.pauses:
                        self._take_back(lane, first + start, share[start:])
                        break
            shares = self._portion(now, accept) if is_finishing else {}

    def _shares(self, now: float, accept: Accept[C], *, woken: bool) -> dict[Lane, list[C]]:
        """Share out the connections that wait, as long as a worker has credit."""
        was_starving, self._starving = self._starving, False
        arrivals, lanes = self.arrivals, self.lanes
        pick, hand, candidates = lanes.policy.pick, lanes.hand, lanes.open_to(now)
        queue, may_accept = arrivals.queue, arrivals.flows and self._alarm.accept_at is None
        shares: dict[Lane, list[C]] = {}
        for taken in range(BURST):
            if not candidates:
                self._starving = True
                # The backlog was not empty when credit ran out in two cases: the listener was readable and
                # nothing could be taken, or all had been out of credit and a connection was found after all.
                if queue or (was_starving if taken else woken):
                    lanes.starved(now)
                break
            if queue:
                connection = queue.popleft()
            elif may_accept:
                accepted = accept()
                if isinstance(accepted, NoConnection):
                    self._is_closed = accepted is NoConnection.CLOSED
                    break
                arrivals.accepted += 1
                connection = accepted
            else:
                break
            lane = pick(candidates) if len(candidates) > 1 else candidates[0]
            if not hand(lane, now):
                candidates.remove(lane)
            if lane in shares:
                shares[lane].append(connection)
            else:
                shares[lane] = [connection]
        else:
            self._turn_soon |= bool(queue)  # what is queued makes no listener readable
        return shares

    def _portion(self, now: float, accept: Accept[C]) -> dict[Lane, list[C]]:
        """Return a message for the finishing worker, whatever its credit. Empty if it takes no more."""
        assert self.finishing is not None
        lane = self.lanes.lanes[self.finishing]
        if self._alarm.accept_at is not None or Pause.BELT in lane.pauses:
            return {}
        if self._has_all:
            self.finishing = None
            return {}
        size = lane.batch if lane.room is None else min(lane.batch, lane.room - lane.outstanding)
        if size <= 0:
            return {}
        arrivals = self.arrivals
        share: list[C] = []
        while len(share) < size and not isinstance(waiting := arrivals.next(accept), NoConnection):
            self.lanes.hand(lane, now)
            share.append(waiting)
        self._has_all = len(share) < size or arrivals.accepted >= self._most
        return {lane: share} if share else self._portion(now, accept)

    def _take_back(self, lane: Lane, first: int, connections: list[C]) -> None:
        """The belt refused number `first`: put it, and what was to follow, at the head of the queue again."""
        self.lanes.returned(lane.worker, first, len(connections))
        lane.returned += len(connections)
        self.arrivals.take_back(connections)
        self._turn_soon = self.finishing is None  # another worker may have them

    def refused(self, worker: int, now: float) -> None:
        """The belt of `worker` took no more of this turn's messages. Pause it for `BELT_PAUSE`."""
        self.lanes.pause(worker, Pause.BELT)
        self._alarm.belts[worker] = now + BELT_PAUSE
        self._alarm.wake(now + BELT_PAUSE)

    # --- time passes --------------------------------------------------------------------------------------

    def look(self, now: float) -> list[int]:
        """End the pauses that are over. Returns the workers whose belts must be read back.

        For each of them, call `came_back` with the connections that lay there, and then `recalled`.
        """
        for worker in self._alarm.end_pauses(now):
            self.lanes.resume(worker, Pause.BELT)
        if any(lane.pending for lane in self.lanes.lanes.values()):
            self._look_for_late(now)
        return [lane.worker for lane in self.lanes.overdue(now)]

    def recalled(self, worker: int, now: float) -> int | None:
        """The belt of `worker` was read back: give it nothing until it acknowledges or returns one.

        Returns None, or the number of the probe to put on its belt. A probe is a message without connections.
        If the belt refuses it, the probe `came_back`.
        """
        lane = self.lanes.lanes[worker]
        if not self.lanes.stall(lane):
            return None
        return lane.probe(now)

    def _look_for_late(self, now: float) -> None:
        """Look again when a lane may have become late, or its belt must be read back."""
        at = self.lanes.next_look(now) if self._starving else now + self.lanes.recall_after
        if at is not None:
            self._alarm.wake(at)
