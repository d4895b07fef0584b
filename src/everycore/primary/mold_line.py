"""The driver of the molds of one identity: `core.molds` decides, this starts them and asks them for workers.

Invariant: one input at a time; each worker's driver is told exactly once what became of its worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol, TypeAlias

from everycore.aio.waiting import settle
from everycore.core import molds
from everycore.core.in_turn import InTurn
from everycore.core.mold_wire import MoldIsPrepared
from everycore.errors import ConfigurationError, MoldFailed, with_hint
from everycore.primary import spawner
from everycore.primary.mold import Mold
from everycore.primary.outfit import Awaiting, Outfit
from everycore.settings import Settings
from everycore.system.processes import Spawned
from everycore.system.seam import System

log = logging.getLogger("everycore.primary")

#: In seconds. If a worker that is no longer wanted takes longer to be made, its mold counts as stuck.
OVERDUE: Final = 1.0
#: The state of a mold at a moment.
MoldState: TypeAlias = Literal["preparing", "serving", "ending"]
_FORCE: Final = "preload_force (--preload-force) forks all the same"


class LineOwner(Protocol):
    """The owner of the molds of all identities, as far as the molds of one identity need it."""

    loop: asyncio.AbstractEventLoop
    system: System
    terms: Callable[[], spawner.SpawnTerms]
    settings: Callable[[], Settings]
    knows: Callable[[int], bool]
    is_kept: bool

    def wants(self, settings: Settings) -> bool:
        """Whether workers with these settings come from a mold."""

    def asks(self) -> None:
        """A mold is about to be asked. Raises OSError if orphans cannot be adopted."""

    def answered(self) -> None:
        """A mold has answered, or never will answer."""


class MoldedLine:
    """The molds of one identity."""

    def __init__(self, owner: LineOwner, settings: Settings) -> None:
        self.molds: dict[int, Mold] = {}
        self._owner = owner
        self._decisions = molds.MoldLine()
        #: The settings of the next mold.
        self._settings = settings
        #: Lets `core.molds` decide about an input, and performs the actions.
        self.tell = InTurn[molds.MoldInput](self._decide).tell
        self._waiting: dict[int, tuple[Awaiting, Outfit]] = {}
        self._renewals: dict[int, asyncio.Future[None]] = {}
        self._last_request = 0

    def adapt(self, settings: Settings) -> Settings:
        """As `Molds.adapt`."""
        decisions = self._decisions
        if not self._owner.is_kept and settings != self._settings:
            self._settings = settings
            self.tell(molds.MoldsStale())
            return settings
        mold = self.molds.get(decisions.serving or decisions.coming or 0)
        return settings if mold is None else mold.settings

    def want(self, driver: Awaiting, birth: Outfit) -> None:
        """As `Molds.want`."""
        self._waiting[driver.id] = driver, birth
        self._owner.loop.call_soon(self.tell, molds.WorkerWanted(driver.id))

    def withdraw(self, worker: int) -> None:
        """As `Molds.withdraw`."""
        if worker in self._waiting:  # this comes after `WorkerWanted`, which may still be scheduled
            self._owner.loop.call_soon(self.tell, molds.WorkerWithdrawn(worker))

    def renew(self) -> asyncio.Future[None]:
        """As `Molds.renew`."""
        self._last_request += 1
        future: asyncio.Future[None] = self._owner.loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._renewals[self._last_request] = future
        self.tell(molds.RenewMold(self._last_request))
        return future

    def cancel_renewal(self) -> None:
        """As `Molds.cancel_renewal`."""
        self.tell(molds.RenewalCancelled())

    def close(self) -> None:
        """As `Molds.close`."""
        self.tell(molds.MoldsClosed())

    def states(self) -> Iterator[tuple[int, MoldState, int]]:
        """As `Molds.states`."""
        decisions = self._decisions
        for number, mold in self.molds.items():
            if mold.pid is not None:
                is_serving = number == decisions.serving
                state: MoldState = "serving" if is_serving else "preparing"
                if not is_serving and number != decisions.coming:
                    state = "ending"
                yield mold.pid, state, mold.made

    def settle_all(self) -> None:
        """The cluster has ended."""
        for _, birth in self._waiting.values():
            birth.fail()
        for future in self._renewals.values():
            settle(future, MoldFailed(molds.CLOSED))
        self._waiting.clear()

    # --- inputs -------------------------------------------------------------------------------------------

    def _decide(self, given: molds.MoldInput) -> None:
        for action in self._decisions.handle(given):
            self._perform(action)

    def knows(self, pid: int) -> bool:
        """As `MoldOwner.knows`."""
        return self._owner.knows(pid)

    def on_prepared(self, mold: Mold, said: MoldIsPrepared) -> None:
        """As `MoldOwner.on_prepared`."""
        may_fork = not said.threads or mold.settings.preload_force
        log.info("a mold (pid %s) is prepared, in %.2f s", mold.pid, said.seconds)
        for what in said.shared if may_fork else ():
            log.warning("the mold has %s: all workers would use the same one; make it in each worker", what)
        if said.threads:
            names = ", ".join(said.threads)
            follows = "workers are forked without them"
            if not may_fork:
                follows = f"workers are fresh interpreters, which have them; {_FORCE}"
            log.warning("threads are alive in the mold after the import: %s; %s", names, follows)
        self.tell(molds.MoldPrepared(mold.number, may_fork))

    def on_born(self, mold: Mold, spawned: Spawned) -> None:
        """As `MoldOwner.on_born`."""
        worker = self._decisions.asked
        if worker is not None:
            driver, birth = self._waiting.pop(worker)
            birth.close()
            driver.on_born(spawned)

    def on_answered(self, mold: Mold, problem: str) -> None:
        """As `MoldOwner.on_answered`."""
        worker = self._decisions.asked
        if worker is None:
            return
        self._owner.answered()
        self.tell(molds.WorkerLost(worker, problem) if problem else molds.WorkerBorn(worker))

    def on_gone(self, mold: Mold, why: str) -> None:
        """As `MoldOwner.on_gone`."""
        decisions = self._decisions
        del self.molds[mold.number]
        worker = decisions.asked if decisions.asked_of == mold.number else None
        if worker is not None:
            self._owner.answered()
            if worker not in self._waiting:  # the worker was made, but the mold ended before it could say so
                self.tell(molds.WorkerBorn(worker))
        is_serving = mold.number == decisions.serving
        if is_serving:
            log.warning("%s; running workers go on", why)
        elif mold.number == decisions.coming and not (self._waiting or self._renewals):
            log.error("cannot prepare a mold; the next worker tries again: %s", why)
        self.tell(molds.MoldGone(mold.number, why))

    # --- actions ------------------------------------------------------------------------------------------

    def _perform(self, action: molds.MoldAction) -> None:
        match action:
            case molds.StartMold(number):
                self._start(number)
            case molds.AskMold(number, worker):
                self._ask(self.molds[number], worker)
            case molds.WatchFork(worker):
                self._owner.loop.call_later(OVERDUE, self.tell, molds.ForkOverdue(worker))
            case molds.SpawnFresh(worker):
                self._spawn_fresh(worker)
            case molds.FailWorker(worker, why):
                self._fail(worker, MoldFailed(why))
            case molds.EndMold(number):
                if number in self.molds:
                    self.molds[number].kill()
            case molds.MoldRenewed(request):
                settle(self._renewals.pop(request), None)
            case molds.RenewalFailed(request, why):
                settle(self._renewals.pop(request), MoldFailed(why))

    def _start(self, number: int) -> None:
        owner = self._owner
        if owner.is_kept and owner.wants(owner.settings()):
            self._settings = owner.settings()
        mold = Mold(owner.loop, owner.system, self, number, self._settings, owner.terms())
        try:
            mold.start()
        except (OSError, ConfigurationError) as error:
            text = str(with_hint(error) if isinstance(error, OSError) else error)
            self.tell(molds.MoldGone(number, f"the mold cannot be started: {text}"))
        else:
            self.molds[number] = mold

    def _ask(self, mold: Mold, worker: int) -> None:
        try:
            self._owner.asks()
        except OSError as error:
            self.tell(molds.WorkerLost(worker, str(error)))
            return
        try:
            mold.ask(self._waiting[worker][1])
        except (BrokenPipeError, ConnectionResetError):
            return  # it has just ended; `_on_end` will say so
        except OSError as error:
            self._owner.answered()
            self.tell(molds.WorkerLost(worker, str(with_hint(error))))

    def _spawn_fresh(self, worker: int) -> None:
        driver, birth = self._waiting.pop(worker)
        try:
            spawned = spawner.spawn_fresh(birth, self._owner.system)
        except OSError as error:
            birth.fail()
            driver.on_unborn(with_hint(error))
        else:
            birth.close()
            driver.on_born(spawned)

    def _fail(self, worker: int, error: OSError) -> None:
        driver, birth = self._waiting.pop(worker)
        birth.fail()
        driver.on_unborn(error)
