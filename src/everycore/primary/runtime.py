"""What an open cluster runs on: made when its block is entered, closed when the block is left.

The drivers of the cluster share it. Invariant: nothing in it outlives `close`, or `abandon` in a forked
child.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from everycore.aio.steps import take_all
from everycore.primary.boards import Boards
from everycore.primary.book import Book
from everycore.primary.eventlog import EventLog
from everycore.primary.handons import Exchange
from everycore.primary.listeners.factory import DistributionSettings
from everycore.primary.listeners.switchboard import Switchboard
from everycore.primary.molds import Molds
from everycore.primary.spawner import SpawnTerms
from everycore.settings import Settings
from everycore.system.seam import System

if TYPE_CHECKING:
    from everycore.system.tally import PrimaryTally


class Runtime:
    """The loop, the listeners, the boards and the book of one cluster."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        terms: SpawnTerms,
        distribution: DistributionSettings,
        log: EventLog,
        book: Book,
        system: System,
        settings: Callable[[], Settings] = Settings,
    ) -> None:
        self.loop = loop
        self.terms = terms
        self.log = log
        self.book = book
        self.system = system
        self.switchboard = Switchboard(loop, distribution, self.descriptors)
        self.boards = Boards()
        self.molds = Molds(loop, system, lambda: self.terms, settings, self._knows)
        self.exchange = Exchange(loop, self.switchboard)
        #: Whether workers that are asked to leave spare idle clients; see `wire.Disconnect`.
        self.spares_idle = True
        #: Where workers leave their own metrics; None without an observer.
        self.tally: PrimaryTally | None = None
        #: Other descriptors of this process on which workers must not listen.
        self.kept: set[int] = set()
        #: Processes other than workers and molds that are reaped elsewhere.
        self.helpers: set[int] = set()

    def _knows(self, pid: int) -> bool:
        return any(member.process.pid == pid for member in self.book)

    def descriptors(self) -> Iterator[int]:
        """The descriptors of everycore itself, on which workers must not listen."""
        yield from self.boards.descriptors()
        yield from self.kept
        yield from self.molds.descriptors()
        yield from self.switchboard.descriptors()
        for member in self.book:
            yield from member.descriptors()

    def allot_tally(self, worker: int) -> int:
        """Allot a slot for the metrics of that worker. Returns 0 if there is none."""
        return 0 if self.tally is None else self.tally.allot(worker)

    def leave_tally(self, slot: int, worker: int) -> None:
        """Note that the worker is gone."""
        if self.tally is not None:
            self.tally.leave(slot, worker)

    def close(self) -> None:
        """After the last worker: close what is left, and end the iterators over events."""
        steps = [self.molds.end, self.switchboard.close, self.boards.close]
        steps += [member.close for member in self.book.ended()]
        take_all([*steps, self.log.listeners.close], "the end of the cluster")

    def abandon(self) -> None:
        """In a forked child: close the child's copies, else ports and channels outlive the primary."""
        steps: list[Callable[[], object]] = [
            self.molds.abandon,
            self.switchboard.abandon,
            self.boards.close,
        ]
        take_all([*steps, *(member.abandon for member in self.book)], "a fork")
