"""Which workers are stuck: they live, and nothing goes on in them.

`Stalls.look(seen, activity, now) -> actions` is called again and again, `INTERVAL` seconds apart or less, by
`primary.stallwatch`. Pure; a process is looked at by a function that is passed in, and only where nothing
goes on. Times are seconds, by the driver's clock.

Progress is what a worker shows: a loop of ours counts its turns on the board (`Seen.beat`). Where none does,
progress is that the worker picks up what it is given (`Seen.oldest`).

Rules:
* A worker is stuck for as long as it shows no progress, without the time in which it could not have gone on:
  in which one of its threads waited for a processor, and by which this look itself is late, for then the
  whole machine has none to spare. A false kill is worse than a hang. So a loop that computes for ever on a
  busy machine is found later, when it has had so much of a processor; one that waits for one is not found.
* The clock starts anew after SIGCONT, and does not run under a tracer (a debugger, strace).
* Stuck for `dump` seconds: the stacks of its threads are asked for, once for each time that it is stuck.
* Stuck for `kill` seconds: they are asked for once more. `LAST_STACKS` seconds later it is aborted, unless
  something goes on again; `LAST_WORD` seconds after that it is killed. A process that is stopped prints
  nothing, and an abort would wait for SIGCONT: it is killed at once.
* Only a worker that is given connections is watched: one that boots has its own time limit, and so has one
  that leaves.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec

from everycore.settings import check_stall

#: The longest time between two looks, and between two beats of a loop, in seconds.
INTERVAL: Final = 1.0
#: How often a worker beats within the shortest limit, at least.
_BEATS: Final = 4
#: Seconds that a worker has to print its stacks before it is aborted, and to end by that before it is killed.
LAST_STACKS: Final = 1.0
LAST_WORD: Final = 5.0


class StallLimits(msgspec.Struct, frozen=True):
    """After how many seconds the stacks of a stuck worker are asked for, and it is killed; None: never."""

    dump: float | None = None
    kill: float | None = None

    @property
    def interval(self) -> float:
        """Seconds between two looks, and between two beats of a worker; 0: nobody is watched."""
        limits = [limit for limit in (self.dump, self.kill) if limit is not None]
        return min(INTERVAL, min(limits) / _BEATS) if limits else 0.0


def stall_limits(stall_dump: float | None, stall_kill: float | None) -> StallLimits:
    """The limits that are given as settings. Raises ConfigurationError."""
    return StallLimits(check_stall("stall_dump", stall_dump), check_stall("stall_kill", stall_kill))


class Seen(msgspec.Struct, frozen=True):
    """A worker that is given connections, at one look.

    beat: another number whenever its loop has turned; 0: no loop of ours counts. oldest: when the oldest
    connection was given to it that it has not picked up; None: there is none.
    """

    beat: int = 0
    oldest: float | None = None


class ProcessView(Protocol):
    """What the kernel shows of a process: see `system.activity`."""

    @property
    def cpu(self) -> float:
        """Seconds for which its threads ran."""

    @property
    def waited(self) -> Mapping[int, float]:
        """Thread -> seconds for which it waited for a processor."""

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped by SIGSTOP and the like."""

    @property
    def is_traced(self) -> bool:
        """Whether a tracer has it."""


class Symptoms(msgspec.Struct, frozen=True):
    """A stuck worker, as it is told.

    seconds: for which it has shown no progress. cpu: for how many of them its threads ran; None: nobody
    knows. starved: in how many it could not have gone on.
    """

    worker: int
    seconds: float
    cpu: float | None
    starved: float
    is_stopped: bool


class Dump(msgspec.Struct, frozen=True):
    """Ask for the stacks of its threads."""

    symptoms: Symptoms


class Condemn(msgspec.Struct, frozen=True):
    """Ask for the stacks once more; `Abort` or `KillStuck` follows."""

    symptoms: Symptoms


class Abort(msgspec.Struct, frozen=True):
    """SIGABRT."""

    worker: int


class KillStuck(msgspec.Struct, frozen=True):
    """SIGKILL: it is stopped, or has not ended by SIGABRT."""

    worker: int


class Recovered(msgspec.Struct, frozen=True):
    """A fact for the log: it was stuck for so many seconds, and goes on."""

    worker: int
    seconds: float


StallAction = Dump | Condemn | Abort | KillStuck | Recovered


class _Stage(enum.Enum):
    WELL = "nothing was asked of it"
    DUMPED = "its stacks were asked for"
    CONDEMNED = "they were asked for once more; it is aborted next"
    ABORTED = "it was aborted; it is killed next"
    KILLED = "it was killed"


class _Watched(msgspec.Struct):
    """One worker. since: its last progress. lost: seconds since then in which it could not have gone on."""

    limits: StallLimits
    since: float
    beat: int = 0
    lost: float = 0.0
    stage: _Stage = _Stage.WELL
    due: float = 0.0
    """When the next step of its end is due."""
    view: ProcessView | None = None
    """The process at the last look, if nothing went on then."""
    cpu_before: float = 0.0
    is_stopped: bool = False

    def begin_anew(self, since: float) -> None:
        """There is progress, or what comes is to be counted from here."""
        self.since = since
        self.lost = 0.0
        self.view = None
        self.is_stopped = False

    def goes_on(self, seen: Seen, now: float) -> float | None:
        """The time of its latest progress, if there was one since the last look."""
        if seen.beat or self.beat:  # also in the moment in which the loop ends
            before, self.beat = self.beat, seen.beat
            return None if before == seen.beat else now
        if seen.oldest is None:
            return now
        return seen.oldest if seen.oldest > self.since else None


class Stalls(msgspec.Struct):
    """The workers that are watched. `limits`: of those that are watched from now on."""

    limits: StallLimits = msgspec.field(default_factory=StallLimits)
    _watched: dict[int, _Watched] = msgspec.field(default_factory=dict)
    _looked: float | None = None
    _step: float = INTERVAL
    """Seconds from the last look to this one, as was intended."""

    def watch(self, worker: int, now: float) -> None:
        """`worker` is given connections from now on."""
        if self.limits.interval:
            self._watched[worker] = _Watched(self.limits, now)

    @property
    def next_look(self) -> float | None:
        """In how many seconds the next look is due; None: nobody is watched."""
        return min((it.limits.interval for it in self._watched.values()), default=None)

    def stuck_for(self, worker: int, now: float) -> float | None:
        """How long a worker has made no progress, in seconds; None if it is not known to be stuck."""
        it = self._watched.get(worker)
        return None if it is None or it.stage is _Stage.WELL else now - it.since

    def begin_anew(self, now: float) -> None:
        """All were stopped, and go on: what was before does not count."""
        for it in self._watched.values():
            it.begin_anew(now)
        self._looked = None

    def look(
        self, seen: Mapping[int, Seen], activity: Callable[[int], ProcessView | None], now: float
    ) -> list[StallAction]:
        """Look at those that are given connections, all of whom are in `seen`; the others are forgotten."""
        passed = 0.0 if self._looked is None else now - self._looked
        late = max(0.0, passed - self._step)
        self._watched = {worker: it for worker, it in self._watched.items() if worker in seen}
        actions: list[StallAction] = []
        for worker, it in self._watched.items():
            actions += self._look_at(worker, it, seen[worker], activity, now, passed, late)
        self._looked = None if not self._watched else now
        self._step = self.next_look or INTERVAL
        return actions

    def _look_at(
        self,
        worker: int,
        it: _Watched,
        seen: Seen,
        activity: Callable[[int], ProcessView | None],
        now: float,
        passed: float,
        late: float,
    ) -> list[StallAction]:
        if it.stage in (_Stage.ABORTED, _Stage.KILLED):
            return self._end(worker, it, now)
        since = it.goes_on(seen, now)
        if since is not None:
            return self._well_again(worker, it, since, now)
        view = activity(worker)
        if view is not None:
            if view.is_traced:
                it.begin_anew(now)
                it.stage = _Stage.WELL
                return []
            if it.is_stopped and not view.is_stopped:
                return self._well_again(worker, it, now, now)
            if it.view is None:
                it.cpu_before = view.cpu
            late = min(passed, late + _waited(it.view, view, passed))
            it.is_stopped = view.is_stopped
        it.view = view
        it.lost += min(late, now - it.since)
        return self._judge(worker, it, now)

    @staticmethod
    def _well_again(worker: int, it: _Watched, since: float, now: float) -> list[StallAction]:
        seconds, was_stuck = now - it.since, it.stage is not _Stage.WELL
        it.begin_anew(since)
        it.stage = _Stage.WELL
        return [Recovered(worker, seconds)] if was_stuck else []

    def _judge(self, worker: int, it: _Watched, now: float) -> list[StallAction]:
        """Nothing goes on in it."""
        if it.stage is _Stage.CONDEMNED:
            return self._end(worker, it, now)
        seconds = now - it.since
        stuck = seconds - it.lost
        cpu = None if it.view is None else it.view.cpu - it.cpu_before
        symptoms = Symptoms(worker, seconds, cpu, it.lost, it.is_stopped)
        if it.limits.kill is not None and stuck >= it.limits.kill:
            it.stage = _Stage.CONDEMNED
            it.due = now if it.is_stopped else now + LAST_STACKS
            return [Condemn(symptoms), *(self._end(worker, it, now) if it.is_stopped else [])]
        if it.limits.dump is not None and stuck >= it.limits.dump and it.stage is _Stage.WELL:
            it.stage = _Stage.DUMPED
            return [Dump(symptoms)]
        return []

    @staticmethod
    def _end(worker: int, it: _Watched, now: float) -> list[StallAction]:
        if now < it.due or it.stage is _Stage.KILLED:
            return []
        if it.stage is _Stage.CONDEMNED and not it.is_stopped:
            it.stage = _Stage.ABORTED
            it.due = now + LAST_WORD
            return [Abort(worker)]
        it.stage = _Stage.KILLED
        return [KillStuck(worker)]


def _waited(before: ProcessView | None, view: ProcessView, passed: float) -> float:
    """For how long one of its threads waited for a processor between two looks."""
    if before is None:
        return 0.0
    both = view.waited.keys() & before.waited.keys()
    longest = max((view.waited[it] - before.waited[it] for it in both), default=0.0)
    return min(max(longest, 0.0), passed)
