"""The driver of the molds of one cluster: one for each identity (uid, gid, groups) that workers have.

`core.molds` decides. This starts molds, asks them for workers, and tells each worker's driver what became of
its worker. Invariant: one input at a time; this process adopts orphans only while a mold is asked for a
worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from everycore.aio.steps import take_all
from everycore.primary import spawner
from everycore.primary.outfit import Awaiting, Outfit
from everycore.settings import Settings
from everycore.system.seam import System

if TYPE_CHECKING:
    from everycore.primary.mold import Mold
    from everycore.primary.mold_line import MoldedLine, MoldState

Identity: TypeAlias = tuple[Any, ...]


class Molds:
    """All molds of a cluster.

    terms: returns the current ones. settings: returns those for new workers. knows: whether a pid is a
    worker's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        system: System,
        terms: Callable[[], spawner.SpawnTerms],
        settings: Callable[[], Settings],
        knows: Callable[[int], bool],
    ) -> None:
        self.loop = loop
        self.system = system
        self.terms = terms
        self.settings = settings
        self.knows = knows
        #: Whether a pool keeps the workers: then other settings hold from its next reload on.
        self.is_kept = False
        self.is_closed = False
        self._lines: dict[Identity, MoldedLine] = {}
        #: How many molds are being asked for a worker, and whether this process adopted orphans before that.
        self._asked = 0
        self._adopted_before = False

    def wants(self, settings: Settings) -> bool:
        """Whether workers with these settings come from a mold."""
        return bool(settings.preload) and self.system.has_molds

    def adapt(self, settings: Settings) -> Settings:
        """The settings of the next worker, which are those of the mold that it comes from."""
        line = self._lines.get(_identity(settings)) if self.wants(settings) else None
        return settings if line is None else line.adapt(settings)

    def want(self, driver: Awaiting, birth: Outfit, settings: Settings) -> None:
        """Have a worker made. Its driver is told the result, never before this returns."""
        self._line(settings).want(driver, birth)

    def withdraw(self, worker: int) -> None:
        """A worker that was wanted is no longer wanted."""
        for line in self._lines.values():
            line.withdraw(worker)

    def renew(self, settings: Settings) -> asyncio.Future[None]:
        """Prepare a new mold. The future raises MoldFailed if that fails."""
        return self._line(settings).renew()

    def cancel_renewal(self) -> None:
        """Stop waiting for new molds."""
        for line in self._lines.values():
            line.cancel_renewal()

    def close(self) -> None:
        """The cluster ends: make no more workers."""
        self.is_closed = True
        for line in self._lines.values():
            line.close()

    def end(self) -> None:
        """After the last worker: wait until all molds are gone."""
        self.close()
        take_all([mold.end_now for mold in self._all()], "the molds")
        for line in self._lines.values():
            line.settle_all()
        if self._asked:
            self._asked = 1
            self.answered()

    def abandon(self) -> None:
        """In a forked child: close the copies of the descriptors."""
        take_all([mold.abandon for mold in self._all()], "a fork")

    def descriptors(self) -> Iterator[int]:
        """The descriptors that belong to molds, as numbers."""
        for mold in self._all():
            yield from mold.descriptors()

    def states(self) -> Iterator[tuple[int, MoldState, int]]:
        """Each mold: its process, its state, and how many workers it has made."""
        for line in self._lines.values():
            yield from line.states()

    def pids(self) -> set[int]:
        """The process ids of the molds."""
        return {mold.pid for mold in self._all() if mold.pid is not None}

    @property
    def is_adopting(self) -> bool:
        """Whether an orphan that is adopted now may be a worker that is not yet known."""
        return self._asked > 0

    def asks(self) -> None:
        """A mold is about to be asked. Raises OSError if orphans cannot be adopted."""
        if self._asked == 0:
            from everycore.system import molding  # late, as above

            try:
                self._adopted_before = molding.adopt_orphans(on=True)
            except ImportError:
                raise OSError("preload needs ctypes, which this Python lacks") from None
        self._asked += 1

    def answered(self) -> None:
        """A mold has answered, or never will answer."""
        self._asked -= 1
        if self._asked == 0 and not self._adopted_before:
            from everycore.system import molding

            molding.adopt_orphans(on=False)

    def _all(self) -> list[Mold]:
        return [mold for line in self._lines.values() for mold in line.molds.values()]

    def _line(self, settings: Settings) -> MoldedLine:
        key = _identity(settings)
        if key not in self._lines:
            from everycore.primary.mold_line import MoldedLine  # late: only clusters with a mold need it

            self._lines[key] = MoldedLine(self, settings)
        return self._lines[key]


def _identity(settings: Settings) -> Identity:
    """As whom workers with these settings run. A user's name and its number give two identities."""
    groups = None if settings.groups is None else tuple(settings.groups)
    return settings.uid, settings.gid, groups
