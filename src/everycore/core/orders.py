"""The inputs and the actions of a pool's supervisor (`core.supervisor`), as values.

Times are in seconds of the driver's clock.
"""

from __future__ import annotations

import msgspec

from everycore.core.slots import SlotFailure
from everycore.model import ExitStatus

# --- inputs -------------------------------------------------------------------------------------------------


class ScaleTo(msgspec.Struct, frozen=True):
    """Keep `count` workers from now on. The first `ScaleTo` starts the pool."""

    count: int


class WorkerForked(msgspec.Struct, frozen=True):
    """The answer to `Fork(slot)`. It comes before any other input about that worker."""

    slot: int
    worker: int


class WorkerReady(msgspec.Struct, frozen=True):
    """The worker takes connections."""

    worker: int


class WorkerExited(msgspec.Struct, frozen=True):
    """The worker has ended. `chance`, from 0 to 1, spreads the waits before restarts.

    was_refused: the worker was told that an address is in use, and has not listened on another one since.
    """

    worker: int
    status: ExitStatus
    chance: float = 0.5
    was_refused: bool = False


class TimerFired(msgspec.Struct, frozen=True):
    """The time of the last `SetTimer` has come."""


class Reload(msgspec.Struct, frozen=True):
    """Replace all workers, one after the other. `Reloaded` or `ReloadStopped` repeats `request`."""

    request: int


class Drain(msgspec.Struct, frozen=True):
    """Let this worker finish its work and leave, and fill its slot."""

    worker: int


class Recycle(msgspec.Struct, frozen=True):
    """Replace this worker when its turn comes. It has reached the limit that `why` names."""

    worker: int
    why: str


class MoldRenewal(msgspec.Struct, frozen=True):
    """The answer to `Prepare(generation)`: the new mold is ready or, with a `failure`, could not be made."""

    generation: int
    failure: SlotFailure | None = None


class Stop(msgspec.Struct, frozen=True):
    """End the pool: stop all workers and start no more."""


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
    """Start a worker in `slot`, and report `WorkerForked` before any other input."""

    slot: int
    generation: int = 0


class Dismiss(msgspec.Struct, frozen=True):
    """Ask the worker to leave. It may finish its work."""

    worker: int


class Kill(msgspec.Struct, frozen=True):
    """Send SIGKILL to the worker, which did not boot in time."""

    worker: int


class SetTimer(msgspec.Struct, frozen=True):
    """Report `TimerFired` at this time instead of any time set before; with None, never."""

    at: float | None


class Replace(msgspec.Struct, frozen=True):
    """A fact for the log: the worker ended unasked, and its slot is filled again after `delay` seconds.

    delay: 0 if a worker that boots already fills the slot.
    is_known: the slot has failed, and that was reported.
    """

    worker: int
    slot: int
    status: ExitStatus
    overdue: bool
    delay: float
    is_known: bool = False


class SlotFailed(msgspec.Struct, frozen=True):
    """A fact for the log: `ends` workers of this slot have ended too soon, the last one as `end` says.

    Further ends are not reported one by one.
    """

    ends: int
    end: Replace


class SlotWorks(msgspec.Struct, frozen=True):
    """A fact for the log: a slot that had failed after `ends` ends has a live worker again."""

    slot: int
    worker: int
    ends: int


class Recycling(msgspec.Struct, frozen=True):
    """A fact: this worker is being replaced because it has reached a limit."""

    worker: int
    slot: int
    why: str


class RecyclingFailed(msgspec.Struct, frozen=True):
    """A fact for the log: the replacement did not become ready, so `worker` goes on serving.

    Recycling is tried again after `delay` seconds.
    """

    worker: int
    failure: SlotFailure
    delay: float


class Wait(msgspec.Struct, frozen=True):
    """A fact for the log: the worker ended before it was ready, and its slot waits for a reload."""

    failure: SlotFailure


class Prepare(msgspec.Struct, frozen=True):
    """Renew the mold for the reload of that generation, and report `MoldRenewal`.

    is_cancelled: stop waiting for that renewal instead.
    """

    generation: int
    is_cancelled: bool = False


class Reloading(msgspec.Struct, frozen=True):
    """A fact for the log: a reload has begun."""

    generation: int


class Reloaded(msgspec.Struct, frozen=True):
    """All workers are new and ready. The workers that they replaced may still be finishing their work."""

    generation: int
    requests: tuple[int, ...]


class ReloadStopped(msgspec.Struct, frozen=True):
    """The reload ended before all workers were replaced. `failure` says why; None if the pool ends."""

    generation: int
    requests: tuple[int, ...]
    failure: SlotFailure | None


class FailPool(msgspec.Struct, frozen=True):
    """The application cannot boot, or all slots have failed. The pool has begun to end."""

    failure: SlotFailure


class Finish(msgspec.Struct, frozen=True):
    """The last worker is gone: as asked, or with a `failure` because the pool gave up. No action follows."""

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
