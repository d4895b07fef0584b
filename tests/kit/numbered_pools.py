"""A pool whose workers are numbers: a driver of the supervisor, for tests of its decisions."""

import signal

from everycore.core.orders import (
    Action,
    Dismiss,
    Finish,
    Fork,
    Input,
    Kill,
    MoldRenewal,
    Prepare,
    Reload,
    Reloaded,
    ReloadStopped,
    SetTimer,
    TimerFired,
    WorkerExited,
    WorkerForked,
    WorkerReady,
)
from everycore.core.restarts import Intensity
from everycore.core.rollout import Rollout
from everycore.core.slots import SlotFailure
from everycore.core.supervisor import Supervisor
from everycore.model import ExitStatus

BOOT_TIMEOUT = 60.0
CRASH = ExitStatus(signal=signal.SIGKILL)
DONE = ExitStatus(code=0)


class Pool:
    """It forks, keeps the timer, and remembers all actions."""

    def __init__(
        self,
        *,
        surge: int = 1,
        boot_timeout: float | None = BOOT_TIMEOUT,
        may_finish: bool = False,
        give_up: int | None = None,
        prepares: bool = False,
    ) -> None:
        self.supervisor = Supervisor(
            boot_timeout=boot_timeout,
            may_finish=may_finish,
            rollout=Rollout(surge, prepares=prepares),
            intensity=Intensity(give_up),
        )
        self.now = 0.0
        self.timer: float | None = None
        self.live: dict[int, int] = {}  # id -> slot
        self.generations: dict[int, int] = {}
        self.is_ready: set[int] = set()
        self.dismissed: set[int] = set()
        self.forks = 0
        self.finished: Finish | None = None
        self.answers: dict[int, Reloaded | ReloadStopped] = {}
        self.requests = 0
        #: The generation for which a new mold is being made.
        self.prepares_for: int | None = None

    def tell(self, given: Input) -> list[Action]:
        actions = self.supervisor.handle(given, self.now)
        for action in actions:
            assert self.finished is None, "nothing follows Finish"
            self.perform(action)
        return actions

    def perform(self, action: Action) -> None:
        match action:
            case Fork(slot, generation):
                self.forks += 1
                self.live[self.forks] = slot
                self.generations[self.forks] = generation
                assert self.supervisor.handle(WorkerForked(slot, self.forks), self.now) == []
            case Dismiss(worker):
                assert worker in self.live
                assert worker not in self.dismissed
                self.dismissed.add(worker)
            case Kill(worker):
                assert worker in self.live
            case SetTimer(at):
                self.timer = at
            case Prepare(generation, is_cancelled):
                self.prepares_for = None if is_cancelled else generation
            case Reloaded(_, requests) | ReloadStopped(_, requests, _):
                for request in requests:
                    assert request not in self.answers, "one answer to each request"
                    self.answers[request] = action
            case Finish():
                self.finished = action

    def ready(self, *workers: int) -> list[Action]:
        self.is_ready.update(workers)
        return [action for worker in workers for action in self.tell(WorkerReady(worker))]

    def exit(self, worker: int, status: ExitStatus = CRASH, *, was_refused: bool = False) -> list[Action]:
        self.live.pop(worker)
        self.dismissed.discard(worker)
        return self.tell(WorkerExited(worker, status, was_refused=was_refused))

    def reload(self) -> int:
        """Request a reload. Returns the number of that request."""
        self.requests += 1
        self.tell(Reload(self.requests))
        return self.requests

    def renewed(self, failure: SlotFailure | None = None) -> list[Action]:
        """Report that the new mold is prepared, or cannot be made."""
        assert self.prepares_for is not None
        generation, self.prepares_for = self.prepares_for, None
        return self.tell(MoldRenewal(generation, failure))

    def let_time_pass(self, seconds: float) -> list[Action]:
        """Let `seconds` pass: the timer fires as often as it is due."""
        until = self.now + seconds
        actions: list[Action] = []
        while self.timer is not None and self.timer <= until:
            self.now = max(self.timer, self.now)
            actions += self.tell(TimerFired())
        self.now = until
        return actions

    @property
    def staying(self) -> dict[int, int]:
        """The workers that were not asked to leave: id -> slot."""
        return {worker: slot for worker, slot in self.live.items() if worker not in self.dismissed}
