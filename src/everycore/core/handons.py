"""Which workers hand idle connections on when they leave, and which workers take them over.

Keep account of the workers that can hand on, decide which of them may, and choose a taker for each
connection. Invariant: a worker is told that it may hand on only while another one is ready to take over. It
is told again when that changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from everycore.errors import ProtocolError

#: Upper bound of the connections that a worker can claim to have. No process has more.
MOST: Final = 1 << 20


class HandOnBook:
    """The account of one cluster. Workers are identified by their ids."""

    def __init__(self) -> None:
        #: The workers that can take connections over -> the most connections that each wants to have.
        self._most: dict[int, int] = {}
        self._ready: set[int] = set()
        #: The workers that leave -> whether each was told that it may hand on; None if not told yet.
        self._leaving: dict[int, bool | None] = {}
        #: The workers that were ever told that they may: a connection can cross the message that ends this.
        self._ever: set[int] = set()
        #: Worker -> connections that it took over since a worker began to leave.
        self._given: dict[int, int] = {}
        #: Worker -> connections that it has handed on.
        self._handed: dict[int, int] = {}
        #: No worker may hand on.
        self.may_never = False

    def can(self, worker: int, most: int) -> None:
        """`worker` can hand on, and can take over while it has fewer than `most` connections."""
        self._most[worker] = min(most, MOST)

    def ready(self, worker: int) -> None:
        """`worker` takes connections."""
        self._ready.add(worker)

    def leaves(self, worker: int) -> None:
        """`worker` takes no more connections and finishes those that it has. Idempotent."""
        self._ready.discard(worker)
        if worker not in self._leaving:
            self._leaving[worker] = None
            self._given.clear()

    def gone(self, worker: int) -> None:
        """`worker` can no longer be reached."""
        self._ready.discard(worker)
        self._ever.discard(worker)
        for book in (self._most, self._leaving, self._given, self._handed):
            book.pop(worker, None)

    def news(self) -> list[tuple[int, bool]]:
        """Return (worker, may hand on) for each leaving worker whose answer is new or has changed."""
        may = not self.may_never and any(worker in self._most for worker in self._ready)
        told = [worker for worker, was in self._leaving.items() if was is not may and worker in self._most]
        for worker in told:
            self._leaving[worker] = may
            if may:
                self._ever.add(worker)
        return [(worker, may) for worker in told]

    def hands_on(self, giver: int) -> None:
        """`giver` has handed one connection on. Raises ProtocolError if it may not, or for one too many.

        A worker that leaves gets no more connections, so it can't hand on more than it could ever have had. A
        worker that does is making connections up, and would fill the other workers with copies.
        """
        if giver not in self._ever:
            raise ProtocolError("it handed a connection on without permission")
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
        """Return the worker that takes over the next connection of `giver`, or None if there is none.

        holders: the workers that hold the connection's listener.
        count: returns how many connections a worker has.
        pick: chooses among ready workers with room. Without it, or if it returns None, the worker with the
            fewest connections is chosen.

        A ready worker with room comes first. Otherwise `giver` gets the connection back, and if that is gone,
        any other worker that has not left.
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
