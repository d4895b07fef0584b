"""What the supervisor of a pool is told, and what it orders.

The inputs and the actions of `core.supervisor`, as values. Times are seconds, by the driver's clock.
"""

from __future__ import annotations

import msgspec

from everycore.core.slots import SlotFailure
from everycore.model import ExitStatus

# --- inputs -------------------------------------------------------------------------------------------------


class ScaleTo(msgspec.Struct, frozen=True):
    """From now on so many workers; the first one starts the pool."""

    count: int


class WorkerForked(msgspec.Struct, frozen=True):
    """The answer to `Fork(slot)`, before anything else about that worker."""

    slot: int
    worker: int


class WorkerReady(msgspec.Struct, frozen=True):
    """The worker takes connections."""

    worker: int


class WorkerExited(msgspec.Struct, frozen=True):
    """The worker is gone. `chance`, from 0 to 1, spreads the waits before restarts."""

    worker: int
    status: ExitStatus
    chance: float = 0.5


class TimerFired(msgspec.Struct, frozen=True):
    """The time of the last `SetTimer` has come."""


class Reload(msgspec.Struct, frozen=True):
    """Replace all workers, one after the other. `request` comes back with `Reloaded` or `ReloadStopped`."""

    request: int


class Drain(msgspec.Struct, frozen=True):
    """Let this worker finish its work and leave, and fill its slot."""

    worker: int


class Recycle(msgspec.Struct, frozen=True):
    """Replace this worker when its turn comes: it has reached a limit, `why` says which."""

    worker: int
    why: str


class MoldRenewal(msgspec.Struct, frozen=True):
    """The answer to `Prepare(generation)`: the new mold is there, or, with a `failure`, cannot be had."""

    generation: int
    failure: SlotFailure | None = None


class Stop(msgspec.Struct, frozen=True):
    """No workers any more."""


Input = (
    ScaleTo
    | WorkerForked
    | WorkerReady
    | WorkerExited
    | TimerFired
    | Reload
    | Drain
    | Recycle
    | MoldRenewal
    | Stop
)

# --- actions ------------------------------------------------------------------------------------------------


class Fork(msgspec.Struct, frozen=True):
    """Start a worker in `slot` and say `WorkerForked` before anything else is said."""

    slot: int
    generation: int = 0


class Dismiss(msgspec.Struct, frozen=True):
    """Ask the worker to leave: it may finish its work."""

    worker: int


class Kill(msgspec.Struct, frozen=True):
    """SIGKILL: it did not boot in time."""

    worker: int


class SetTimer(msgspec.Struct, frozen=True):
    """Say `TimerFired` at this time, in place of any earlier request; None: never."""

    at: float | None


class Replace(msgspec.Struct, frozen=True):
    """A fact for the log: the worker ended unasked, and its slot is filled again after `delay` seconds.

    0: by a worker that boots already. is_known: its slot has failed, which was told.
    """

    worker: int
    slot: int
    status: ExitStatus
    overdue: bool
    delay: float
    is_known: bool = False


class SlotFailed(msgspec.Struct, frozen=True):
    """A fact for the log: so many workers of this slot have ended too soon, the last one by `end`.

    What follows is not told one by one.
    """

    ends: int
    end: Replace


class SlotWorks(msgspec.Struct, frozen=True):
    """A fact for the log: a slot that had failed, with so many ends, has a worker again that lives."""

    slot: int
    worker: int
    ends: int


class Recycling(msgspec.Struct, frozen=True):
    """A fact: this worker is being replaced, for it has reached a limit."""

    worker: int
    slot: int
    why: str


class RecyclingFailed(msgspec.Struct, frozen=True):
    """A fact for the log: its replacement did not become ready; `worker` serves on.

    It is tried again after `delay` seconds.
    """

    worker: int
    failure: SlotFailure
    delay: float


class Wait(msgspec.Struct, frozen=True):
    """A fact for the log: the worker ended before it was ready, and its slot waits for a reload."""

    failure: SlotFailure


class Prepare(msgspec.Struct, frozen=True):
    """Renew the mold, for the reload of that generation, and say `MoldRenewal`; or do not wait any longer."""

    generation: int
    is_cancelled: bool = False


class Reloading(msgspec.Struct, frozen=True):
    """A fact for the log: a reload has begun."""

    generation: int


class Reloaded(msgspec.Struct, frozen=True):
    """All workers are new and ready; those that they replaced may still finish their work."""

    generation: int
    requests: tuple[int, ...]


class ReloadStopped(msgspec.Struct, frozen=True):
    """The reload ended before all were replaced: `failure` says why; None: the pool ends."""

    generation: int
    requests: tuple[int, ...]
    failure: SlotFailure | None


class FailPool(msgspec.Struct, frozen=True):
    """The application cannot boot, or all slots have failed; the end has begun."""

    failure: SlotFailure


class Finish(msgspec.Struct, frozen=True):
    """The last worker is gone, as asked or, with a failure, because we gave up. No action follows."""

    failure: SlotFailure | None


Action = (
    Fork
    | Dismiss
    | Kill
    | SetTimer
    | Replace
    | SlotFailed
    | SlotWorks
    | Recycling
    | RecyclingFailed
    | Wait
    | Prepare
    | Reloading
    | Reloaded
    | ReloadStopped
    | FailPool
    | Finish
)
