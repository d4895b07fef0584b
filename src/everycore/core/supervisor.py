"""Keeps n workers alive: who is forked, dismissed, killed, and when it is hopeless.

Job: `Supervisor.handle(input, now) -> actions`, its only entrance. The driver (`everycore.pool`) performs the
actions in order and feeds back what happens; times are its clock's seconds.

Invariants:
* A slot has at most one live worker; what replaces it inherits the slot. A slot that is dismissed and wanted
  again waits for the old worker's end: whatever is numbered by slot (a file, a port) never has two owners.
* Every wanted slot has a live worker or a time at which it gets one, until the end has begun.
* The one timer is always set to the earliest moment at which something is due.

Rules:
* A worker that ends without being asked by us, in whatever way, is replaced with back-off, counted per slot.
* Nobody of this pool was ever ready, and a worker ends: the application cannot boot. We give up at once
  instead of trying for ever (uvicorn and gunicorn learnt this), and the first failure is the one reported.
* Somebody was ready once: the application was fine, so we go on trying.
* A worker not ready within `boot_timeout` is killed, which is then a failure like any other; None: it may
  take for ever.
* With `may_finish`, a worker that ends with status 0 before it was ready has done its work, which was not to
  serve: its slot stays empty, and when all are, the pool has ended as it should.

Must not import anything with I/O, a clock or chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from everycore.core.restarts import Backoff
from everycore.model import ExitStatus

#: Once we have given up, workers that still boot have this long to leave by themselves: they serve nobody.
LAST_SECONDS: Final = 5.0

# --- inputs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScaleTo:
    """From now on so many workers; the first one starts the pool."""

    count: int


@dataclass(frozen=True, slots=True)
class Forked:
    """The answer to `Fork(slot)`, before anything else about that worker."""

    slot: int
    worker: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker takes connections."""

    worker: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker is gone. `chance`, from 0 to 1, spreads the waits before restarts."""

    worker: int
    status: ExitStatus
    chance: float = 0.5


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The time of the last `SetTimer` has come."""


@dataclass(frozen=True, slots=True)
class Stop:
    """No workers any more."""


Input = ScaleTo | Forked | Ready | Exited | TimerFired | Stop

# --- actions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a worker in `slot` and say `Forked` before anything else is said."""

    slot: int


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Ask the worker to leave: it may finish its work."""

    worker: int


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL: it did not boot in time."""

    worker: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Say `TimerFired` at this time, in place of any earlier request; None: never."""

    at: float | None


@dataclass(frozen=True, slots=True)
class Replace:
    """A fact for the log: the worker ended unasked, and its slot is filled again after `delay` seconds."""

    worker: int
    slot: int
    status: ExitStatus
    overdue: bool
    delay: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why we gave up: the first worker that ended before any was ready; `overdue`: by `boot_timeout`."""

    worker: int
    status: ExitStatus
    overdue: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The application cannot boot; the end has begun."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Finish:
    """The last worker is gone, as asked or, with a failure, because we gave up. No action follows."""

    failure: Failure | None


Action = Fork | Dismiss | Kill | SetTimer | Replace | GiveUp | Finish

# --- the decisions ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Slot:
    number: int
    worker: int | None = None
    """The id of who lives here, from `Forked` to `Exited`."""
    ready_at: float | None = None
    dismissed: bool = False
    overdue: bool = False
    failures: int = 0
    due: float | None = None
    """When the next worker is forked."""
    deadline: float | None = None
    """When this worker is killed unless it is ready."""


@dataclass(slots=True)
class Supervisor:
    """The decisions about one pool."""

    backoff: Backoff = field(default_factory=Backoff)
    boot_timeout: float | None = 60.0
    may_finish: bool = False
    _slots: dict[int, _Slot] = field(default_factory=dict)
    _wanted: int = 0
    _was_ever_ready: bool = False
    _is_ending: bool = False
    _is_finished: bool = False
    _failure: Failure | None = None
    _timer: float | None = None

    def handle(self, given: Input, now: float) -> list[Action]:
        """What is to be done, in this order."""
        if self._is_finished:
            return []
        actions = self._decide(given, now)
        timer = self._earliest()
        if timer != self._timer:
            self._timer = timer
            actions.append(SetTimer(timer))
        if self._is_ending and not self._slots:
            self._is_finished = True
            actions.append(Finish(self._failure))
        return actions

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._wanted

    def _decide(self, given: Input, now: float) -> list[Action]:
        match given:
            case ScaleTo(count):
                return self._scale(count, now)
            case Forked(number, worker):
                self._slots[number].worker = worker
                return []
            case Ready(worker):
                return self._ready(worker, now)
            case Exited():
                return self._exited(given, now)
            case TimerFired():
                return self._timer_fired(now)
            case Stop():
                return self._end(None)

    def _scale(self, count: int, now: float) -> list[Action]:
        if self._is_ending:
            return []
        self._wanted = count
        missing = [number for number in range(count) if number not in self._slots]
        actions = [self._fork(self._vacant(number), now) for number in missing]
        for slot in [slot for slot in self._slots.values() if slot.number >= count]:
            actions += self._dismiss(slot, None)
        return actions

    def _ready(self, worker: int, now: float) -> list[Action]:
        slot = self._find(worker)
        if slot is not None:
            slot.ready_at = now
            # Of a worker that is on its way out, the deadline is for leaving.
            slot.deadline = slot.deadline if slot.dismissed else None
            self._was_ever_ready = True
        return []

    def _exited(self, given: Exited, now: float) -> list[Action]:
        slot = self._find(given.worker)
        if slot is None:  # not one of ours: whoever has the cluster may fork more
            return []
        del self._slots[slot.number]
        if self._is_ending or slot.number >= self._wanted:
            return []
        if slot.dismissed:
            return [self._fork(self._vacant(slot.number), now)]
        if self.may_finish and slot.ready_at is None and given.status.code == 0:
            return [] if self._slots else self._end(None)
        if not self._was_ever_ready:
            return self._give_up(Failure(given.worker, given.status, slot.overdue), now)
        return [self._replace(slot, given, now)]

    def _replace(self, slot: _Slot, given: Exited, now: float) -> Action:
        healthy_for = 0.0 if slot.ready_at is None else now - slot.ready_at
        vacant = self._vacant(slot.number)
        vacant.failures = self.backoff.failures(slot.failures, healthy_for)
        delay = self.backoff.delay(vacant.failures, given.chance)
        vacant.due = now + delay
        return Replace(given.worker, slot.number, given.status, slot.overdue, delay)

    def _timer_fired(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for slot in self._slots.values():
            if slot.due is not None and slot.due <= now:
                actions.append(self._fork(slot, now))
            elif slot.deadline is not None and slot.deadline <= now and slot.worker is not None:
                slot.deadline = None
                slot.overdue = True
                actions.append(Kill(slot.worker))
        return actions

    def _give_up(self, failure: Failure, now: float) -> list[Action]:
        self._failure = failure
        return [GiveUp(failure), *self._end(now + LAST_SECONDS)]

    def _end(self, deadline: float | None) -> list[Action]:
        if self._is_ending:
            return []
        self._is_ending = True
        self._wanted = 0
        return [action for slot in list(self._slots.values()) for action in self._dismiss(slot, deadline)]

    def _dismiss(self, slot: _Slot, deadline: float | None) -> list[Action]:
        """Ask for its end, once; how long it may take is the cluster's `grace`, or the `deadline` given."""
        if slot.worker is None:
            del self._slots[slot.number]
            return []
        slot.deadline = deadline
        if slot.dismissed:
            return []
        slot.dismissed = True
        return [Dismiss(slot.worker)]

    def _fork(self, slot: _Slot, now: float) -> Action:
        slot.due = None
        slot.deadline = None if self.boot_timeout is None else now + self.boot_timeout
        return Fork(slot.number)

    def _vacant(self, number: int) -> _Slot:
        self._slots[number] = slot = _Slot(number)
        return slot

    def _find(self, worker: int) -> _Slot | None:
        return next((slot for slot in self._slots.values() if slot.worker == worker), None)

    def _earliest(self) -> float | None:
        moments = [moment for slot in self._slots.values() for moment in (slot.due, slot.deadline)]
        return min((moment for moment in moments if moment is not None), default=None)
