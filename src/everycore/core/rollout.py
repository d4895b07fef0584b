"""A rolling reload: the workers of a pool are replaced by new ones, slot by slot.

Say which slots are next, when a reload is complete, and what became of those who asked for one.

Rules:
* A reload raises the generation by one. Whatever is forked from then on has the new generation, for it starts
  from what is there now: successors, and also what replaces a worker that dies meanwhile.
* A slot is *renewed* once a worker of the new generation was ready in it. The reload is complete when every
  wanted slot is.
* At most `surge` slots (at least one) are under way at a time. With a surge of 0 the old worker leaves first,
  and the new one starts when it is gone.
* A worker of the new generation that does not become ready fails the reload: what was renewed stays, and what
  was not stays as it was.
* One reload at a time. Those asked for meanwhile wait for its end, however it ends, and are one reload then.
* Where workers come from a mold (`prepares`), a reload begins with a new one, and no worker is touched before
  that is there. What is forked meanwhile is of the generation before. Without a new mold the reload has
  failed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from everycore.core.slots import Member, Slot, SlotFailure


class Rollout(msgspec.Struct):
    """The reloads of one pool. Requests are numbers that their owner knows."""

    surge: int = 1
    generation: int = 0
    """How many reloads have begun."""
    begun: int = 0
    """The generation of the last reload that has come as far as its workers: later ones had no mold."""
    is_running: bool = False
    is_awaited: bool = False
    """The code is being worked on: what cannot start now waits for the next reload, and none waits long."""
    failure: SlotFailure | None = None
    """Why the last reload failed, until the next one begins."""
    prepares: bool = False
    """Workers come from a mold, and a reload begins with a new one."""
    prepare_by: float | None = None
    """A reload waits for its new mold: until then at most."""
    _answers: list[int] = msgspec.field(default_factory=list)
    _waiting: list[int] = msgspec.field(default_factory=list)

    def ask(self, request: int) -> None:
        """Somebody wants a reload."""
        self._waiting.append(request)

    @property
    def is_wanted(self) -> bool:
        """Whether a reload is to begin now."""
        return bool(self._waiting) and not self.is_running and self.prepare_by is None

    def prepare(self, by: float) -> None:
        """Wait for a new mold. The reload is for all who wait now: a later one may want a newer mold."""
        self.prepare_by = by
        self.failure = None
        self._answers, self._waiting = [*self._answers, *self._waiting], []

    def begin(self) -> None:
        """Begin a reload, for all who wait, or for whom it was prepared."""
        self.generation += 1
        self.begun = self.generation
        self.is_running = True
        self.failure = None
        if self.prepare_by is None:
            self._answers, self._waiting = self._waiting, []
        self.prepare_by = None

    def end(self, failure: SlotFailure | None = None) -> tuple[int, ...]:
        """The reload is over. Returns the requests that it was for."""
        self.is_running = False
        self.failure = failure
        answers, self._answers = self._answers, []
        return tuple(answers)

    def end_all(self) -> tuple[int, ...]:
        """There will be no reload any more. Returns all open requests."""
        self.is_running = False
        self.prepare_by = None
        answers = (*self._answers, *self._waiting)
        self._answers, self._waiting = [], []
        return answers

    def next_slots(self, slots: Collection[Slot]) -> list[Slot]:
        """Those of the wanted `slots` whose turn it is now, in their order."""
        free = max(self.surge, 1) - sum(self._is_under_way(slot) for slot in slots)
        return [slot for slot in slots if self._may_begin(slot)][: max(free, 0)]

    def is_complete(self, slots: Collection[Slot]) -> bool:
        """Whether all of the wanted `slots` are renewed."""
        return all(slot.renewed >= self.generation for slot in slots)

    def awaits_next(self, generation: int) -> bool:
        """Whether a worker of that generation that cannot start is started again by the next reload alone."""
        return self.is_awaited and generation >= self.begun

    def in_the_way(self, slots: Collection[Slot], by: float) -> list[Member]:
        """Those of the wanted `slots` that an awaited reload does not wait for, and that may stay after `by`.

        Whoever was replaced before and finishes its work, and old ones that are not ready yet.
        """
        found = []
        for slot in slots if self.is_awaited else ():
            old = slot.occupant
            if slot.leaver is not None and slot.renewed < self.generation:
                found.append(slot.leaver)
            if old is not None and old.is_booting and old.generation < self.generation:
                found.append(old)
        return [member for member in found if member.deadline is None or member.deadline > by]

    @property
    def is_outdated(self) -> bool:
        """There is newer code than the mold that is being prepared may have, and nobody wants the old one."""
        return self.is_awaited and self.prepare_by is not None and bool(self._waiting)

    def hurry(self, slots: Iterable[Slot], by: float) -> None:
        """There is newer code: where a reload is awaited, workers that are not ready by then are killed."""
        for slot in slots if self.is_awaited and self.is_running else ():
            for member in slot.members():
                if member.generation == self.generation and member.is_booting:
                    member.deadline = by if member.deadline is None else min(member.deadline, by)

    def concerns(self, generation: int) -> bool:
        """Whether a worker of that generation belongs to the reload that is under way."""
        return self.is_running and generation == self.generation

    def _is_under_way(self, slot: Slot) -> bool:
        """Whether the reload waits for this slot: for its new worker, or for the end of the old one."""
        if slot.renewed >= self.generation:
            return False
        occupant = slot.occupant
        leaves_first = self.surge == 0 and occupant is not None and occupant.is_dismissed
        is_new = occupant is not None and occupant.generation == self.generation
        return slot.successor is not None or is_new or leaves_first

    def _may_begin(self, slot: Slot) -> bool:
        occupant = slot.occupant
        if occupant is None or occupant.is_dismissed or occupant.generation >= self.generation:
            return False  # what is due, or wanted again, is of the new generation anyway
        # A worker that has just been replaced still finishes its work: no third one beside the two.
        return slot.has_room
