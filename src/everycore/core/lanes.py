"""The lanes of one listener: the account of every worker's belt, and the choice between them.

Invariant, the law of dispatch: each accepted connection is at every step in exactly one of *queued* (with the
primary), *on a belt*, *picked up* (acknowledged, or lost with its worker) and *given back* (and then queued
again). `sent - acknowledged - returned` is exact, whatever the race, because both sides only subtract; and
whatever a worker says, because only what is outstanding can be given back, once, by the worker that has it.
`now` is an argument, in seconds. What follows from a choice is decided in `core.dispatch`.

The rule (measured against seven others; `docs/explanation/how-a-connection-travels.md`):

* *Acknowledge after the turn.* A worker acknowledges when the program was given the connection and the turn
  of its loop is over, not before: an early acknowledgement invites the next connection onto a worker that is
  about to block.
* *In turn, late ones skipped.* A lane is late when its oldest un-acknowledged connection is older than
  `late_after`, or than four typical pick-ups. Late lanes are chosen only if all are late, and then only
  those that are not overdue (below): on a belt behind a blocked worker nobody is better off than in the
  backlog.
* *Credit.* A lane may have `credit` connections un-acknowledged. It doubles, up to `MOST_CREDIT`, only when
  all credit was used up with the backlog not empty and nobody late; it falls to 1 when a pick-up was slow,
  and comes back, doubling, with prompt ones.
* *Batches and more credit are for cheap connections.* Where a connection costs its worker over `COSTLY` there
  is nothing to save, and what came in one message with a slow one could not be taken back from behind it.
* *A lane is paused for reasons.* Each is ended by its own cause, and none of them ends another.
* *Recall.* What lies on a belt longer than `recall_after`, while another lane has credit, is taken back,
  and the lane is *stalled* until it acknowledges something. Without the mark, the recall would free credit
  and feed the blocked worker again.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from everycore.core.policies import MOST_ARREARS, Policy, RoundRobin
from everycore.errors import ProtocolError

if TYPE_CHECKING:
    from everycore.core.waits import WaitHistogram

FIRST_CREDIT: Final = 2
#: How much longer than the typical pick-up makes a lane late; and how much longer than that, overdue.
LATE_FACTOR: Final = 4.0
OVERDUE_FACTOR: Final = 2.0
#: How fast a running median follows, and its smallest value above 0 in seconds.
_STEP: Final = 1.2
_SMALLEST: Final = 20e-6
#: Added to a moment to look again: uvloop's clock has whole milliseconds, and a look at the very limit may
#: come too early.
TICK: Final = 1e-6
MOST_CREDIT: Final = 16
LATE_AFTER: Final = 0.003
SLOW_PICK_UP: Final = 0.010
#: Seconds that a worker spends on a connection, from which on it is given them one by one.
COSTLY: Final = 0.0005
RECALL_AFTER: Final = 0.020


class Pause(enum.Enum):
    """Why a lane is given nothing for now."""

    FULL = "its worker said that it is full: until the worker asks to be served again"
    BELT = "its belt took no more: for a moment"
    FINISHING = "its worker leaves, and has been given all who came"
    STALLED = "its belt was read back: until its worker acknowledges something, or gives it back"


class Lane:
    """The account of one worker's belt. The dispatcher alone writes it; a policy reads it."""

    __slots__ = (
        "batch", "credit", "given", "next_number", "pauses", "pending", "probe", "returned", "room", "total",
        "worker",
    )  # fmt: skip

    def __init__(self, worker: int, batch: int, given: int) -> None:
        self.worker = worker
        self.batch = batch
        #: Its server's limit lets it have so many un-acknowledged; None: as many as its credit.
        self.room: int | None = None
        #: Connections handed over, with arrears forgiven: whose turn it is.
        self.given = given
        #: Connections handed over, as they are counted for a snapshot.
        self.total = 0
        #: Of these, those that came back.
        self.returned = 0
        #: The number of the last message without a connection.
        self.probe = 0
        self.credit = FIRST_CREDIT
        #: Why it is given nothing; empty: it is.
        self.pauses: set[Pause] = set()
        self.next_number = 1
        #: Number -> time of hand-over, oldest first, of what was sent and neither acknowledged nor returned.
        self.pending: dict[int, float] = {}

    @property
    def outstanding(self) -> int:
        """Connections handed over and not yet acknowledged."""
        return len(self.pending)

    @property
    def is_stalled(self) -> bool:
        """Whether its belt was read back, and its worker has not been heard of since."""
        return Pause.STALLED in self.pauses

    @property
    def has_room(self) -> bool:
        """Whether one more may be handed over."""
        count = len(self.pending)
        return count < self.credit and (self.room is None or count < self.room)

    def oldest(self) -> float | None:
        """When the oldest un-acknowledged connection was handed over."""
        return next(iter(self.pending.values()), None)

    @property
    def lost(self) -> int:
        """Connections that are lost if it has nothing to say any more: a probe is none."""
        return len(self.pending.keys() - {self.probe})

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
        #: The lanes of workers that are given nothing any more, and may still speak of what they were given.
        self._left: dict[int, Lane] = {}
        self._most_given = 0
        self.waits: WaitHistogram | None = None  # of pick-ups
        #: The credit that demand has raised lanes to: what a lane that had to go down to 1 comes back to.
        self._level = FIRST_CREDIT
        #: A running median of pick-up times: one step up for a longer one, one down for a shorter.
        self._typical = 0.0
        #: Seconds after which a lane is late, and after which what lies on a belt is taken back.
        self._late_limit = late_after
        self._overdue_limit = recall_after
        #: A running median of the seconds that a connection keeps a worker busy, as the workers say.
        self._cost = 0.0
        #: Whether connections are to go out one by one.
        self.is_costly = False

    @property
    def are_idle(self) -> bool:
        """Whether no worker that is given connections, and was heard of lately, has one un-acknowledged."""
        return not any(lane.pending and not lane.is_stalled for lane in self.lanes.values())

    # --- lanes come and go --------------------------------------------------------------------------------

    def join(self, worker: int, batch: int = 1, room: int | None = None) -> Lane:
        """`worker` takes connections from now on, up to `batch` a message, up to `room` un-acknowledged.

        Again: it has room once more, or more or less of it.
        """
        lane = self.lanes.get(worker)
        if lane is None:
            # A newcomer stands at the end of the queue: it is owed nothing for the time before. One that
            # comes back goes on with its numbers.
            lane = self._left.pop(worker, None) or Lane(worker, batch, self._most_given)
            lane.given = self._most_given
            self.lanes[worker] = lane
        lane.batch = batch
        lane.room = room
        lane.pauses.discard(Pause.FULL)
        return lane

    def leave(self, worker: int) -> None:
        """`worker` is given no more. It may still acknowledge, or give back, what it has."""
        if lane := self.lanes.pop(worker, None):
            self._left[worker] = lane

    def forget(self, worker: int) -> int:
        """`worker` is gone or has closed; returns how many connections it never acknowledged.

        Call `returned` first for each connection that was read back from its belt: nothing comes back later.
        """
        self.leave(worker)
        lane = self._left.pop(worker, None)
        return 0 if lane is None else lane.lost

    def lane_of(self, worker: int) -> Lane | None:
        """The account of `worker`, also if it is given no more; None once it is forgotten."""
        return self.lanes.get(worker) or self._left.get(worker)

    def pause(self, worker: int, why: Pause) -> None:
        """Nothing more for `worker` until this reason, like every other, has ended."""
        if lane := self.lane_of(worker):
            lane.pauses.add(why)

    def resume(self, worker: int, why: Pause) -> None:
        """This reason has ended. FULL ends by `join` as well, STALLED by what the worker says."""
        if lane := self.lane_of(worker):
            lane.pauses.discard(why)

    # --- choosing -----------------------------------------------------------------------------------------

    def choose(self, now: float) -> Lane | None:
        """The lane that should get the next connection; None: leave it in the backlog. Changes nothing."""
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
        if candidates:
            return self.policy.pick(candidates) if len(candidates) > 1 else candidates[0]
        if all_late and late:
            return self.policy.pick(late)
        return None

    def hand(self, lane: Lane, now: float) -> int:
        """Commit: `lane` is being handed a connection; returns its number on the belt."""
        number = lane.next_number
        lane.next_number = number + 1
        lane.pending[number] = now
        lane.total += 1
        given, least = lane.given, self._most_given - MOST_ARREARS
        lane.given = given = (max(least, given)) + 1
        self._most_given = max(self._most_given, given)
        return number

    def probe(self, lane: Lane, now: float) -> int:
        """A message without a connection is being sent: numbered like one, but nobody's turn."""
        number = lane.next_number
        lane.next_number = number + 1
        lane.pending[number] = now
        return number

    def starved(self, now: float) -> bool:
        """Out of credit with the backlog not empty: let lanes take more, unless somebody is late.

        Returns whether anybody may take more now.
        """
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
        """`worker` picked up every connection up to number `last`; each cost it `cost` seconds (0: unknown).

        Raises ProtocolError for one never sent.
        """
        lane = self.lanes.get(worker) or self._left.get(worker)
        if lane is None or last >= lane.next_number:
            handed_over = 0 if lane is None else lane.next_number - 1
            raise ProtocolError(f"acknowledged connection {last}; only {handed_over} were handed over")
        if lane.pauses:
            lane.pauses.discard(Pause.STALLED)
        pending = lane.pending
        picked_up: list[int] = []
        for number in pending:
            if number > last:
                break
            picked_up.append(number)
        if not picked_up:
            return
        slowest = now - pending[picked_up[0]]  # the oldest is the first
        for number in picked_up:
            at = pending.pop(number)
            if self.waits is not None:
                self.waits.add(now - at)
        self._follow(slowest)
        # Not the time until the ack: where processors are short most of that is waiting for one (measured:
        # with it, workers with nothing to do were given their connections one by one, and unevenly).
        if cost > 0:
            self._cost = _stepped(self._cost, cost)
            self.is_costly = self._cost > COSTLY
        if slowest > max(SLOW_PICK_UP, self._late_limit):
            lane.credit = 1
        elif slowest <= self._late_limit and lane.credit < self._level:
            # Prompt again. (Without this, one slow pick-up kept a worker at a quarter of its share for good.)
            lane.credit = min(lane.credit * 2, self._level)

    def _follow(self, pick_up: float) -> None:
        """The last pick-up took so many seconds: let the limits follow.

        On a machine that has no time for anybody, a worker that waits for a processor is no worse than
        others: with fixed limits the few that run would get everything (measured: 4.4 times the mean in
        bursts of 16). So both limits stretch with the pick-up time that is typical at present.
        """
        self._typical = typical = _stepped(self._typical, pick_up)
        self._late_limit = max(self.late_after, LATE_FACTOR * typical)
        self._overdue_limit = max(self.recall_after, OVERDUE_FACTOR * LATE_FACTOR * typical)

    def returned(self, worker: int, first: int, count: int = 1) -> None:
        """Connections came back: read back from the belt, or given back by the worker.

        Raises ProtocolError, having changed nothing, unless `worker` has each of them: a number that was
        never handed over, or was acknowledged, or has come back before, would be a connection from nowhere.
        """
        lane = self.lane_of(worker)
        for number in range(first, first + count):
            if lane is None or number not in lane.pending:
                raise ProtocolError(f"gave back connection {number}, which it does not have")
        assert lane is not None
        for number in range(first, first + count):
            del lane.pending[number]
        # A belt is read back before its lane is stalled: so it was the worker that gave these back.
        lane.pauses.discard(Pause.STALLED)

    # --- recall -------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> list[Lane]:
        """The lanes whose belts should be read back: something lies there too long, and another has room."""
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
        """Its belt was read back: nothing for `lane` until it acknowledges. Returns whether it needs a probe.

        It needs one when nothing is left for it to acknowledge.
        """
        lane.pauses.add(Pause.STALLED)
        return not lane.pending

    def next_look(self, now: float) -> float | None:
        """When, without any input, the answer of `choose` or `overdue` may change; None: not by waiting."""
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
    """A running median after one more sample: a step up for a longer one, a step down for a shorter."""
    return max(median * _STEP, _SMALLEST) if sample > median else median / _STEP
