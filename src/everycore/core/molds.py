"""Which mold a worker comes from: decided for all workers of one identity (uid, gid, groups).

`MoldLine.handle(input) -> actions` is the only entrance. The driver (`primary.molds`) performs the actions in
order and feeds back the results.

Invariants:
* At most one mold serves, and at most one is prepared to take its place.
* A mold is asked for one worker at a time.
* A wanted worker is asked for, spawned fresh, or failed. Until then it waits, and what it waits for is under
  way.
* Every renewal is answered once.

Rules:
* The first wanted worker starts the first mold and waits for it.
* A renewal prepares a new mold while the old one serves. If the new mold cannot be prepared, the old one
  stays, so that replacements still come from it. Otherwise the old mold ends.
* A mold that ends is replaced, whatever ended it. A mold that made no worker is replaced only when a worker
  is wanted: otherwise an application that always ends its mold would be imported again and again.
* If a mold ends while it is asked for a worker, the worker is asked for again, provided that the mold had
  made another one. Otherwise the fork itself may end the mold, and the worker has failed.
* A mold that must not be forked (threads) ends. Workers are then fresh interpreters until a renewal.
"""

from __future__ import annotations

import msgspec

# --- inputs -------------------------------------------------------------------------------------------------


class WorkerWanted(msgspec.Struct, frozen=True):
    """A worker should start."""

    worker: int


class WorkerWithdrawn(msgspec.Struct, frozen=True):
    """A wanted worker is not wanted any more."""

    worker: int


class ForkOverdue(msgspec.Struct, frozen=True):
    """The time of `WatchFork` has come."""

    worker: int


class WorkerBorn(msgspec.Struct, frozen=True):
    """The worker that a mold was asked for is there."""

    worker: int


class WorkerLost(msgspec.Struct, frozen=True):
    """The mold did not make the worker that it was asked for."""

    worker: int
    why: str


class MoldPrepared(msgspec.Struct, frozen=True):
    """The mold has imported what it must. `may_fork`: nothing in it forbids a fork."""

    mold: int
    may_fork: bool = True


class MoldGone(msgspec.Struct, frozen=True):
    """The mold has ended, or cannot be prepared, for the reason `why`."""

    mold: int
    why: str


class RenewMold(msgspec.Struct, frozen=True):
    """Replace the mold by a new one. The answer repeats `request`."""

    request: int


class RenewalCancelled(msgspec.Struct, frozen=True):
    """The new mold is not waited for any more."""


class MoldsStale(msgspec.Struct, frozen=True):
    """The settings have changed. Workers wanted from now on come from a mold with the new settings."""


class MoldsClosed(msgspec.Struct, frozen=True):
    """The cluster ends."""


MoldInput = (
    WorkerWanted
    | WorkerWithdrawn
    | ForkOverdue
    | WorkerBorn
    | WorkerLost
    | MoldPrepared
    | MoldGone
    | RenewMold
    | RenewalCancelled
    | MoldsStale
    | MoldsClosed
)

# --- actions ------------------------------------------------------------------------------------------------


class StartMold(msgspec.Struct, frozen=True):
    """Start a mold and let it import. Report `MoldPrepared` or `MoldGone`."""

    mold: int


class AskMold(msgspec.Struct, frozen=True):
    """Ask the mold for a worker. Report `WorkerBorn`, `WorkerLost` or `MoldGone`."""

    mold: int
    worker: int


class WatchFork(msgspec.Struct, frozen=True):
    """Report `ForkOverdue` in a moment: this worker is asked for, but is not wanted any more."""

    worker: int


class SpawnFresh(msgspec.Struct, frozen=True):
    """Start the worker as a fresh interpreter."""

    worker: int


class FailWorker(msgspec.Struct, frozen=True):
    """The worker cannot start, for the reason `why`. `withdrawn`: it was not wanted any more."""

    worker: int
    why: str
    withdrawn: bool = False


class EndMold(msgspec.Struct, frozen=True):
    """Kill the mold."""

    mold: int


class MoldRenewed(msgspec.Struct, frozen=True):
    """The new mold has taken the place of the old one."""

    request: int


class RenewalFailed(msgspec.Struct, frozen=True):
    """The new mold could not be prepared, for the reason `why`."""

    request: int
    why: str


MoldAction = StartMold | AskMold | WatchFork | SpawnFresh | FailWorker | EndMold | MoldRenewed | RenewalFailed

CLOSED = "the cluster is shutting down"
WITHDRAWN = "it was asked to leave before its mold had made it"


class MoldLine(msgspec.Struct):
    """The molds of one identity."""

    serving: int | None = None
    """The mold that workers come from."""
    coming: int | None = None
    """The mold that is being prepared to take its place."""
    is_fresh: bool = False
    """Whether workers are fresh interpreters because the last mold must not be forked."""
    is_closed: bool = False
    births: int = 0
    """How many workers the serving mold has made."""
    last: int = 0
    """The number of the last mold."""
    asked: int | None = None
    """The worker that a mold has been asked for."""
    asked_of: int | None = None
    """The mold that was asked for it."""
    _waiting: list[int] = msgspec.field(default_factory=list)
    _renewal: int | None = None

    def handle(self, given: MoldInput) -> list[MoldAction]:
        """Take one input. Returns the actions to perform, in order."""
        return [*self._decide(given), *self._go_on()]

    def _decide(self, given: MoldInput) -> list[MoldAction]:
        match given:
            case WorkerWanted(worker):
                if self.is_closed:
                    return [FailWorker(worker, CLOSED, withdrawn=True)]
                self._waiting.append(worker)
                return []
            case WorkerWithdrawn(worker):
                return self._withdraw(worker)
            case ForkOverdue(worker):
                return self._end_stuck() if worker == self.asked else []
            case WorkerBorn(worker):
                self.births += worker == self.asked and self.asked_of == self.serving
                return self._answered(worker)
            case WorkerLost(worker, why):
                failed = [FailWorker(worker, why)] if worker == self.asked else []
                return [*failed, *self._answered(worker)]
            case MoldPrepared(mold, may_fork):
                return self._prepared(mold, may_fork=may_fork)
            case MoldGone(mold, why):
                return self._gone(mold, why)
            case RenewMold(request):
                return self._renew(request)
            case RenewalCancelled():
                return self._give_up_renewal("it was cancelled")
            case MoldsStale():
                return self._drop()
            case MoldsClosed():
                return self._close()

    def _go_on(self) -> list[MoldAction]:
        """Serve waiting workers that need not wait any longer."""
        actions: list[MoldAction] = []
        while self.is_fresh and self._waiting:
            actions.append(SpawnFresh(self._waiting.pop(0)))
        if not self._waiting or self.asked is not None:
            return actions
        if self.serving is not None:
            self.asked, self.asked_of = self._waiting.pop(0), self.serving
            actions.append(AskMold(self.serving, self.asked))
        elif self.coming is None:
            actions.append(self._start())
        return actions

    def _start(self) -> MoldAction:
        self.last += 1
        self.coming = self.last
        return StartMold(self.last)

    # --- workers ------------------------------------------------------------------------------------------

    def _withdraw(self, worker: int) -> list[MoldAction]:
        if worker in self._waiting:
            self._waiting.remove(worker)
            return [FailWorker(worker, WITHDRAWN, withdrawn=True)]
        return [WatchFork(worker)] if worker == self.asked else []

    def _answered(self, worker: int) -> list[MoldAction]:
        """The mold has answered. If it does not serve any more, its end was put off until now."""
        if worker != self.asked:
            return []
        mold, self.asked, self.asked_of = self.asked_of, None, None
        return [EndMold(mold)] if mold is not None and mold != self.serving else []

    def _return_asked(self, why: str) -> list[MoldAction]:
        """The mold that was asked for a worker is gone: return the worker to the queue, or fail it."""
        worker, self.asked, self.asked_of = self.asked, None, None
        if worker is None:
            return []
        if self.births and not self.is_closed:
            self._waiting.insert(0, worker)
            return []
        return [FailWorker(worker, why)]

    # --- molds --------------------------------------------------------------------------------------------

    def _prepared(self, mold: int, *, may_fork: bool) -> list[MoldAction]:
        if mold != self.coming:
            return []
        self.coming = None
        actions: list[MoldAction] = self._drop_serving()
        self.is_fresh = not may_fork
        if may_fork:
            self.serving, self.births = mold, 0
        else:
            actions.append(EndMold(mold))
        if self._renewal is not None:
            actions.append(MoldRenewed(self._renewal))
            self._renewal = None
        return actions

    def _gone(self, mold: int, why: str) -> list[MoldAction]:
        if mold == self.coming:
            self.coming = None
            actions = self._give_up_renewal(why)
            if self.serving is None and not self.is_fresh:
                actions += [FailWorker(worker, why) for worker in self._waiting]
                self._waiting.clear()
            return actions
        was_stuck = mold == self.asked_of and self.serving is None
        actions = self._return_asked(why) if mold == self.asked_of else []
        if mold == self.serving or was_stuck:
            self.serving = None
            if self.births and self.coming is None and not self.is_closed:
                actions.append(self._start())
            self.births = 0
        return actions

    def _renew(self, request: int) -> list[MoldAction]:
        """Prepare a new mold. One that is being prepared may lack later changes, so it is not used."""
        actions = self._give_up_renewal("a later one takes its place")
        if self.is_closed:
            return [*actions, RenewalFailed(request, CLOSED)]
        if self.coming is not None:
            actions.append(EndMold(self.coming))
        self._renewal = request
        return [*actions, self._start()]

    def _give_up_renewal(self, why: str) -> list[MoldAction]:
        """Answer the renewal, if there is one, and end the mold that was prepared for it."""
        request, self._renewal = self._renewal, None
        if request is None:
            return []
        actions: list[MoldAction] = [RenewalFailed(request, why)]
        if self.coming is not None:
            actions.insert(0, EndMold(self.coming))
            self.coming = None
        return actions

    def _end_stuck(self) -> list[MoldAction]:
        """End the mold, which does not answer. It is asked for nothing more while it ends."""
        if self.asked_of is None:
            return []
        if self.asked_of == self.serving:
            self.serving = None
        return [EndMold(self.asked_of)]

    def _drop_serving(self) -> list[MoldAction]:
        """Let the serving mold end. If it has been asked for a worker, it answers first."""
        mold, self.serving = self.serving, None
        if mold is None:
            return []
        return [] if mold == self.asked_of else [EndMold(mold)]

    def _drop(self) -> list[MoldAction]:
        actions = self._drop_serving()
        if self.coming is not None:
            actions.append(EndMold(self.coming))
            self.coming = None
        self.is_fresh = False
        return actions

    def _close(self) -> list[MoldAction]:
        self.is_closed = True
        actions = self._give_up_renewal(CLOSED)
        waiting, self._waiting = self._waiting, []
        actions += [FailWorker(worker, CLOSED, withdrawn=True) for worker in waiting]
        ends = dict.fromkeys((self.serving, self.coming, self.asked_of))
        actions += [EndMold(mold) for mold in ends if mold is not None]
        self.serving = self.coming = None
        return actions
