"""The lanes of one listener: the account of every worker's belt, and the choice between them.

Invariant, the law of dispatch: each accepted connection is at every step in exactly one of *queued* (with the
primary), *on a belt*, *picked up* (acknowledged, or lost with its worker) and *given back* (and then queued
again). `sent - acknowledged - returned` is exact in every race, because both sides only subtract. It is exact
whatever a worker says, because only an outstanding connection can be given back, once, by the worker that has
it. `now` is an argument, in seconds. `core.dispatch` decides what follows from a choice.

The rule (measured against seven others; `docs/explanation/how-a-connection-travels.md`):

* *Acknowledge after the turn.* A worker acknowledges once the program was given the connection and the turn
  of its loop is over. An earlier acknowledgement would invite the next connection onto a worker that is about
  to block.
* *In turn, late ones skipped.* A lane is late when its oldest un-acknowledged connection is older than
  `late_after` or than four typical pick-ups, whichever is longer. Late lanes are chosen only if all are late,
  and then only those that are not overdue (below): a connection on the belt of a blocked worker is no better
  off than in the backlog.
* *Credit.* A lane may have `credit` connections un-acknowledged. Credit doubles, up to `MOST_CREDIT`, only
  when all credit was used up while the backlog was not empty and no lane was late. It falls to 1 after a slow
  pick-up, and doubles again with prompt ones.
* *Batches and more credit are for cheap connections.* If a connection costs its worker over `COSTLY`, batches
  save nothing, and a connection that came in one message with a slow one could not be taken back.
* *A lane is paused for reasons.* Each reason ends by its own cause, and none of them ends another.
* *Recall.* A connection that lies on a belt longer than `recall_after`, while another lane has credit, is
  taken back. The lane is then *stalled* until it acknowledges something: otherwise the recall would free
  credit and feed the blocked worker again.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from everycore.core.policies import MOST_ARREARS, Policy, RoundRobin
from everycore.errors import ProtocolError

if TYPE_CHECKING:
    from everycore.core.waits import WaitHistogram

FIRST_CREDIT: Final = 2
#: A lane is late after this many typical pick-ups, and overdue after this many times that.
LATE_FACTOR: Final = 4.0
OVERDUE_FACTOR: Final = 2.0
#: The factor of one step of a running median, and its smallest value above 0, in seconds.
_STEP: Final = 1.2
_SMALLEST: Final = 20e-6
#: Seconds added to the time of a look: uvloop's clock has millisecond resolution, and a look exactly at a
#: limit may come too early.
TICK: Final = 1e-6
MOST_CREDIT: Final = 16
LATE_AFTER: Final = 0.003
SLOW_PICK_UP: Final = 0.010
#: If a connection costs more than this many seconds of a worker, connections go out one by one.
COSTLY: Final = 0.0005
RECALL_AFTER: Final = 0.020


class Pause(enum.Enum):
    """Reasons for which a lane is given nothing for now."""

    FULL = "the worker is full, until it asks to be served again"
    BELT = "the belt took no more, for a moment"
    FINISHING = "the worker leaves and has been given every connection that came"
    STALLED = "the belt was read back, until the worker acknowledges or gives back something"


class Lane:
    """The account of one worker's belt. Only the dispatcher writes it; policies read it."""

    __slots__ = (
        "batch", "credit", "given", "next_number", "pauses", "pending", "probes", "returned", "room", "total",
        "worker",
    )  # fmt: skip

    def __init__(self, worker: int, batch: int, given: int) -> None:
        self.worker = worker
        self.batch = batch
        #: How many un-acknowledged connections its server allows; None if only the credit limits them.
        self.room: int | None = None
        #: Connections handed over, with arrears forgiven. Whose turn it is follows from this.
        self.given = given
        #: Connections handed over, as a snapshot counts them.
        self.total = 0
        #: How many of these came back.
        self.returned = 0
        #: The numbers of the probes (messages without a connection) that are outstanding.
        self.probes: set[int] = set()
        self.credit = FIRST_CREDIT
        #: The reasons for which the lane is given nothing; empty if it is not paused.
        self.pauses: set[Pause] = set()
        self.next_number = 1
        #: Number -> time of hand-over of what was neither acknowledged nor returned, oldest first.
        self.pending: dict[int, float] = {}

    @property
    def outstanding(self) -> int:
        """Connections handed over and not yet acknowledged."""
        return len(self.pending)

    @property
    def is_stalled(self) -> bool:
        """Whether the belt was read back and the worker has acknowledged nothing since."""
        return Pause.STALLED in self.pauses

    @property
    def has_room(self) -> bool:
        """Whether one more connection may be handed over."""
        count = len(self.pending)
        return count < self.credit and (self.room is None or count < self.room)

    def oldest(self) -> float | None:
        """Return when the oldest un-acknowledged connection was handed over."""
        return next(iter(self.pending.values()), None)

    @property
    def lost(self) -> int:
        """How many connections are lost if the worker says nothing more. A probe is not counted."""
        return len(self.pending.keys() - self.probes)

    def probe(self, now: float) -> int:
        """Number a probe, a message without a connection, that is being sent. It counts as nobody's turn."""
        number = self.next_number
        self.next_number = number + 1
        self.pending[number] = now
        self.probes = {probe for probe in self.probes if probe in self.pending} | {number}
        return number

    def is_late(self, limit: float) -> bool:
        """Whether the oldest un-acknowledged connection was handed over before `limit`."""
        for at in self.pending.values():
            return at < limit
        return False


class Lanes:
    """All lanes of one listener. Every method is O(lanes) or better."""

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        late_after: float = LATE_AFTER,
        recall_after: float = RECALL_AFTER,
    ) -> None:
        self.policy = policy or RoundRobin()
        self.late_after = late_after
        self.recall_after = recall_after
        self.lanes: dict[int, Lane] = {}
        #: Lanes of workers that are given no more, but may still acknowledge or give back what they have.
        self._left: dict[int, Lane] = {}
        self._most_given = 0
        self.waits: WaitHistogram | None = None  # of pick-ups, if metrics are on
        #: The credit to which demand has raised the lanes. A lane that fell to 1 comes back to it.
        self._level = FIRST_CREDIT
        #: A running median of pick-up times, in seconds: a step up for a longer one, down for a shorter.
        self._typical = 0.0
        #: Seconds after which a lane is late, and after which connections on a belt are taken back.
        self._late_limit = late_after
        self._overdue_limit = recall_after
        #: A running median of the seconds that a connection keeps its worker busy, as the workers report.
        self._cost = 0.0
        #: Whether connections go out one by one.
        self.is_costly = False

    @property
    def are_idle(self) -> bool:
        """Whether no worker that is given connections and is not stalled has one un-acknowledged."""
        return not any(lane.pending and not lane.is_stalled for lane in self.lanes.values())

    # --- lanes come and go --------------------------------------------------------------------------------

    def join(self, worker: int, batch: int = 1, room: int | None = None) -> Lane:
        """`worker` takes connections from now on: up to `batch` per message, up to `room` un-acknowledged.

        A repeated call says that the worker has room again, or that its room has changed.
        """
        lane = self.lanes.get(worker)
        if lane is None:
            # A new lane starts at the end of the queue: it is owed nothing for the time before. A worker that
            # comes back continues its numbers.
            lane = self._left.pop(worker, None) or Lane(worker, batch, self._most_given)
            lane.given = self._most_given
            self.lanes[worker] = lane
        lane.batch = batch
        lane.room = room
        lane.pauses.discard(Pause.FULL)
        return lane

    def leave(self, worker: int) -> None:
        """Give `worker` no more. It may still acknowledge or give back what it has."""
        if lane := self.lanes.pop(worker, None):
            self._left[worker] = lane

    def forget(self, worker: int) -> int:
        """`worker` is gone or has closed. Returns how many connections it never acknowledged.

        First call `returned` for the connections read back from its belt: none can come back later.
        """
        self.leave(worker)
        lane = self._left.pop(worker, None)
        return 0 if lane is None else lane.lost

    def lane_of(self, worker: int) -> Lane | None:
        """Return the lane of `worker`, also if it is given no more. None once the worker is forgotten."""
        return self.lanes.get(worker) or self._left.get(worker)

    def pause(self, worker: int, why: Pause) -> None:
        """Give `worker` nothing more until this reason, like every other, has ended."""
        if lane := self.lane_of(worker):
            lane.pauses.add(why)

    def resume(self, worker: int, why: Pause) -> None:
        """End this reason. `join` also ends FULL; an acknowledgement or a return also ends STALLED."""
        if lane := self.lane_of(worker):
            lane.pauses.discard(why)

    # --- choosing -----------------------------------------------------------------------------------------

    def open_to(self, now: float) -> list[Lane]:
        """Return the lanes that may be handed the next connection. Empty: it stays in the backlog.

        Until a worker says something, this changes only by what is handed over, and `hand` tells when a lane
        is no longer among them. So one call does for all connections of a turn.
        """
        limit = now - self._late_limit
        most = FIRST_CREDIT if self.is_costly else MOST_CREDIT
        candidates: list[Lane] = []
        late: list[Lane] = []
        all_late = True
        for lane in self.lanes.values():
            if lane.pauses:
                continue
            pending = lane.pending
            count = len(pending)
            has_room = count < lane.credit and count < most and (lane.room is None or count < lane.room)
            oldest = next(iter(pending.values()), now)
            if oldest < limit:
                if has_room and oldest >= now - self._overdue_limit:
                    late.append(lane)
                continue
            all_late = False
            if has_room:
                candidates.append(lane)
        return late if all_late else candidates

    def hand(self, lane: Lane, now: float) -> bool:
        """Hand `lane` a connection. Returns whether it may be handed another one. HOT: once a connection."""
        number = lane.next_number
        lane.next_number = number + 1
        pending = lane.pending
        pending[number] = now
        lane.total += 1
        most_given = self._most_given
        lane.given = given = max(lane.given, most_given - MOST_ARREARS) + 1
        if given > most_given:
            self._most_given = given
        count = len(pending)
        return (
            count < lane.credit
            and count < (FIRST_CREDIT if self.is_costly else MOST_CREDIT)
            and (lane.room is None or count < lane.room)
        )

    def starved(self, now: float) -> bool:
        """Raise the credit, which ran out, unless a lane is late. Returns whether any lane may take more."""
        if self.is_costly:
            return False
        limit = now - self._late_limit
        open_lanes = [lane for lane in self.lanes.values() if not lane.pauses]
        if any(lane.is_late(limit) for lane in open_lanes):
            return False
        grown = False
        for lane in open_lanes:
            if lane.credit < MOST_CREDIT:
                lane.credit = min(lane.credit * 2, MOST_CREDIT)
                self._level = max(self._level, lane.credit)
                grown = True
        return grown

    # --- what comes back ----------------------------------------------------------------------------------

    def acknowledged(self, worker: int, last: int, now: float, cost: float = 0.0) -> None:
        """`worker` picked up every connection up to number `last`.

        cost: seconds for which each of them kept the worker busy; 0 if unknown. Raises ProtocolError for a
        number that was never sent.
        """
        lane = self.lanes.get(worker) or self._left.get(worker)
        if lane is None or last >= lane.next_number:
            handed_over = 0 if lane is None else lane.next_number - 1
            raise ProtocolError(f"acknowledged connection {last}; only {handed_over} were handed over")
        if lane.pauses:
            lane.pauses.discard(Pause.STALLED)
        pending = lane.pending
        oldest = next(iter(pending), last + 1)  # the oldest is the first
        if oldest > last:
            return
        slowest = now - pending[oldest]
        if last + 1 == lane.next_number and self.waits is None:
            pending.clear()
        else:
            for number in [number for number in pending if number <= last]:
                at = pending.pop(number)
                if self.waits is not None:
                    self.waits.add(now - at)
        self._follow(slowest)
        # The time until the ack is not the cost: where processors are short, most of it is waiting for one.
        # (Measured: with it as the cost, idle workers got their connections one by one, and unevenly.)
        if cost > 0:
            self._cost = _stepped(self._cost, cost)
            self.is_costly = self._cost > COSTLY
        if slowest > max(SLOW_PICK_UP, self._late_limit):
            lane.credit = 1
        elif slowest <= self._late_limit and lane.credit < self._level:
            # Prompt again. (Without this, one slow pick-up kept a worker at a quarter of its share forever.)
            lane.credit = min(lane.credit * 2, self._level)

    def _follow(self, pick_up: float) -> None:
        """Adapt the limits to the last pick-up, which took `pick_up` seconds.

        On an overloaded machine, a worker that waits for a processor is no worse than the others. With fixed
        limits the few workers that run would get everything (measured: 4.4 times the mean in bursts of 16).
        So both limits grow with the typical pick-up time of the moment.
        """
        self._typical = typical = _stepped(self._typical, pick_up)
        self._late_limit = max(self.late_after, LATE_FACTOR * typical)
        self._overdue_limit = max(self.recall_after, OVERDUE_FACTOR * LATE_FACTOR * typical)

    def returned(self, worker: int, first: int, count: int = 1) -> None:
        """`count` connections from number `first` were read back from the belt, or the worker gave them back.

        Raises ProtocolError, having changed nothing, unless `worker` has each of them. A number that was
        never handed over, was acknowledged, or has come back before names a connection that does not exist.
        """
        lane = self.lane_of(worker)
        for number in range(first, first + count):
            if lane is None or number not in lane.pending:
                raise ProtocolError(f"gave back connection {number}, which it does not have")
        assert lane is not None
        for number in range(first, first + count):
            del lane.pending[number]
        # A belt is read back before its lane is stalled. So the worker itself gave these back.
        lane.pauses.discard(Pause.STALLED)

    # --- recall -------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> list[Lane]:
        """Return the lanes whose belts must be read back: one is overdue there, and another lane has room."""
        limit = now - self._overdue_limit
        overdue = [lane for lane in self.lanes.values() if not lane.is_stalled and lane.is_late(limit)]
        if not overdue:
            return []
        late = now - self._late_limit
        elsewhere = any(
            lane.has_room and not lane.pauses and not lane.is_late(late) for lane in self.lanes.values()
        )
        return overdue if elsewhere else []

    def stall(self, lane: Lane) -> bool:
        """The belt of `lane` was read back: give it nothing until it acknowledges something.

        Returns whether it needs a probe because nothing is left for it to acknowledge.
        """
        lane.pauses.add(Pause.STALLED)
        return not lane.pending

    def next_look(self, now: float) -> float | None:
        """Return when `open_to` or `overdue` may change by waiting; None if waiting changes nothing."""
        soonest: float | None = None
        for lane in self.lanes.values():
            oldest = lane.oldest()
            if oldest is None or lane.is_stalled:
                continue
            for after in sorted((self._late_limit, self._overdue_limit)):
                if not lane.is_late(now - after):
                    at = max(oldest + after, now) + TICK
                    if soonest is None or at < soonest:
                        soonest = at
                    break
        return soonest


def _stepped(median: float, sample: float) -> float:
    """Return a running median after one more sample: a step up for a longer one, down for a shorter."""
    return max(median * _STEP, _SMALLEST) if sample > median else median / _STEP
