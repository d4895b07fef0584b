"""What the supervisor of a pool is told, and what it orders.

Job: the inputs and the actions of `core.supervisor`, as values. Times are seconds, by the driver's
clock. Must not import anything with I/O, a clock or chance.
"""

from __future__ import annotations

from dataclasses import dataclass

from everycore.core.slots import SlotFailure
from everycore.model import ExitStatus

# --- inputs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScaleTo:
    """From now on so many workers; the first one starts the pool."""

    count: int


@dataclass(frozen=True, slots=True)
class WorkerForked:
    """The answer to `Fork(slot)`, before anything else about that worker."""

    slot: int
    worker: int


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The worker takes connections."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """The worker is gone. `chance`, from 0 to 1, spreads the waits before restarts."""

    worker: int
    status: ExitStatus
    chance: float = 0.5


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The time of the last `SetTimer` has come."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Replace all workers, one after the other. `request` comes back with `Reloaded` or `ReloadStopped`."""

    request: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Let this worker finish its work and leave, and fill its slot."""

    worker: int


@dataclass(frozen=True, slots=True)
class Stop:
    """No workers any more."""


Input = ScaleTo | WorkerForked | WorkerReady | WorkerExited | TimerFired | Reload | Drain | Stop

# --- actions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a worker in `slot` and say `WorkerForked` before anything else is said."""

    slot: int
    generation: int = 0


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
    """A fact for the log: the worker ended unasked, and its slot is filled again after `delay` seconds.

    0: by a worker that boots already.
    """

    worker: int
    slot: int
    status: ExitStatus
    overdue: bool
    delay: float


@dataclass(frozen=True, slots=True)
class Reloading:
    """A fact for the log: a reload has begun."""

    generation: int


@dataclass(frozen=True, slots=True)
class Reloaded:
    """All workers are new and ready; those that they replaced may still finish their work."""

    generation: int
    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReloadStopped:
    """The reload ended before all were replaced: `failure` says why; None: the pool ends."""

    generation: int
    requests: tuple[int, ...]
    failure: SlotFailure | None


@dataclass(frozen=True, slots=True)
class FailPool:
    """The application cannot boot; the end has begun."""

    failure: SlotFailure


@dataclass(frozen=True, slots=True)
class Finish:
    """The last worker is gone, as asked or, with a failure, because we gave up. No action follows."""

    failure: SlotFailure | None


Action = Fork | Dismiss | Kill | SetTimer | Replace | Reloading | Reloaded | ReloadStopped | FailPool | Finish
