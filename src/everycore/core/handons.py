"""Who hands idle connections on when it leaves, and who takes them over.

Keep the account of the workers that say they can, decide who may hand on, and choose who gets each.
Invariant: a worker is told that it may hand on only while another one is ready to take over, and is told when
that has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from everycore.errors import ProtocolError

#: Connections that one worker may have for all we care: more is no number that a process has.
MOST: Final = 1 << 20


class HandOnBook:
    """The account of one cluster. Workers are known by their numbers."""

    def __init__(self) -> None:
        #: Those that can take connections over, and the most connections that each of them wants to have.
        self._most: dict[int, int] = {}
        self._ready: set[int] = set()
        #: Those on their way out, and whether each of them was told that it may hand on; None: not told yet.
        self._leaving: dict[int, bool | None] = {}
        #: Those that were ever told that they may: a connection may cross the message that ends this.
        self._ever: set[int] = set()
        #: Connections that each was given since a worker began to leave.
        self._given: dict[int, int] = {}
        #: Connections that each has handed on.
        self._handed: dict[int, int] = {}
        #: Nobody may hand on.
        self.may_never = False

    def can(self, worker: int, most: int) -> None:
        """`worker` can hand on and take over, as long as it has fewer than `most` connections."""
        self._most[worker] = min(most, MOST)

    def ready(self, worker: int) -> None:
        """`worker` takes connections."""
        self._ready.add(worker)

    def leaves(self, worker: int) -> None:
        """`worker` takes no more connections, and finishes those that it has; again: nothing."""
        self._ready.discard(worker)
        if worker not in self._leaving:
            self._leaving[worker] = None
            self._given.clear()

    def gone(self, worker: int) -> None:
        """Nothing reaches `worker` any more."""
        self._ready.discard(worker)
        self._ever.discard(worker)
        for book in (self._most, self._leaving, self._given, self._handed):
            book.pop(worker, None)

    def news(self) -> list[tuple[int, bool]]:
        """Who is to be told whether it may hand on: each that leaves, and again when that changes."""
        may = not self.may_never and any(worker in self._most for worker in self._ready)
        told = [worker for worker, was in self._leaving.items() if was is not may and worker in self._most]
        for worker in told:
            self._leaving[worker] = may
            if may:
                self._ever.add(worker)
        return [(worker, may) for worker in told]

    def hands_on(self, giver: int) -> None:
        """`giver` has handed one on. Raises ProtocolError if it may not, or for one too many.

        A worker that leaves gets no more connections, so it can't have more of them than it could ever have:
        one that does makes them up, and would fill the others with copies.
        """
        if giver not in self._ever:
            raise ProtocolError("it handed a connection on, and was not told that it may")
        self._handed[giver] = self._handed.get(giver, 0) + 1
        if self._handed[giver] > self._most.get(giver, 0):
            raise ProtocolError(f"it handed on more than {self._most.get(giver, 0)} connections")

    def choose(
        self,
        giver: int,
        holders: Iterable[int],
        count: Callable[[int], int],
        pick: Callable[[Sequence[int]], int | None] | None = None,
    ) -> int | None:
        """Who takes over the next connection of `giver`; None: it can go to nobody.

        holders: the workers that hold the connection's listener. count: the connections that a worker has.
        pick: which of these ready workers with room should have it; None: the one with the fewest.

        A ready worker with room comes first; else `giver` has it back; else any other that has not left.
        """
        among = set(holders)
        loads = [
            (count(worker) + self._given.get(worker, 0), worker)
            for worker in self._ready
            if worker in among and worker in self._most
        ]
        if loads := [(load, worker) for load, worker in loads if load < self._most[worker]]:
            picked = None if pick is None else pick([worker for _, worker in loads])
            chosen = min(loads)[1] if picked is None else picked
            self._given[chosen] = self._given.get(chosen, 0) + 1
            return chosen
        if giver in self._most:
            return giver
        return next(iter(self._most), None)
