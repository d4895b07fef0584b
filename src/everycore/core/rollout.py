"""A rolling reload: the workers of a pool are replaced by new ones, slot by slot.

Decide which slots are next, when a reload is complete, and which requests it answers.

Rules:
* A reload raises the generation by one. Every worker forked from then on has the new generation, because it
  runs the present code. This holds for successors and for replacements of workers that die meanwhile.
* A slot is *renewed* once a worker of the new generation was ready in it. The reload is complete when every
  wanted slot is renewed.
* At most `surge` slots (at least one) are replaced at a time. With a surge of 0 the old worker leaves first,
  and the new one starts when it is gone.
* A worker of the new generation that does not become ready fails the reload. Renewed slots then stay renewed,
  and the others keep their old workers.
* There is one reload at a time. Requests made meanwhile wait for its end, however it ends, and share the next
  one.
* If workers come from a mold (`prepares`), a reload begins with a new mold, and touches no worker before that
  is there. Workers forked meanwhile are of the previous generation. Without a new mold the reload fails.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from everycore.core.slots import Member, Slot, SlotFailure


class Rollout(msgspec.Struct):
    """The reloads of one pool. Requests are numbers whose meaning the caller knows."""

    surge: int = 1
    generation: int = 0
    """How many reloads have begun."""
    begun: int = 0
    """The generation of the last reload that began to replace workers. Later reloads got no mold."""
    is_running: bool = False
    is_awaited: bool = False
    """Whether the code is being edited.

    A worker that cannot start then waits for the next reload, and no reload waits long.
    """
    failure: SlotFailure | None = None
    """Why the last reload failed, until the next one begins."""
    prepares: bool = False
    """Whether workers come from a mold, so that a reload begins with a new one."""
    prepare_by: float | None = None
    """Until when a reload waits for its new mold; None if none waits."""
    _answers: list[int] = msgspec.field(default_factory=list)
    _waiting: list[int] = msgspec.field(default_factory=list)

    def ask(self, request: int) -> None:
        """A reload is requested."""
        self._waiting.append(request)

    @property
    def is_wanted(self) -> bool:
        """Whether a reload should begin now."""
        return bool(self._waiting) and not self.is_running and self.prepare_by is None

    def prepare(self, by: float) -> None:
        """Wait until `by` for a new mold, for all waiting requests. Later ones may want a newer mold."""
        self.prepare_by = by
        self.failure = None
        self._answers, self._waiting = [*self._answers, *self._waiting], []

    def begin(self) -> None:
        """Begin a reload, for all waiting requests or those that it was prepared for."""
        self.generation += 1
        self.begun = self.generation
        self.is_running = True
        self.failure = None
        if self.prepare_by is None:
            self._answers, self._waiting = self._waiting, []
        self.prepare_by = None

    def end(self, failure: SlotFailure | None = None) -> tuple[int, ...]:
        """End the reload. Returns the requests that it was for."""
        self.is_running = False
        self.failure = failure
        answers, self._answers = self._answers, []
        return tuple(answers)

    def end_all(self) -> tuple[int, ...]:
        """No further reload will begin. Returns all open requests."""
        self.is_running = False
        self.prepare_by = None
        answers = (*self._answers, *self._waiting)
        self._answers, self._waiting = [], []
        return answers

    def next_slots(self, slots: Collection[Slot]) -> list[Slot]:
        """Return those of the wanted `slots` that are replaced next, in order."""
        free = max(self.surge, 1) - sum(self._is_under_way(slot) for slot in slots)
        return [slot for slot in slots if self._may_begin(slot)][: max(free, 0)]

    def is_complete(self, slots: Collection[Slot]) -> bool:
        """Whether all the wanted `slots` are renewed."""
        return all(slot.renewed >= self.generation for slot in slots)

    def awaits_next(self, generation: int) -> bool:
        """Whether a worker of `generation` that cannot start waits for the next reload."""
        return self.is_awaited and generation >= self.begun

    def in_the_way(self, slots: Collection[Slot], by: float) -> list[Member]:
        """Return the workers that an awaited reload does not wait for and that may stay after `by`.

        These are, in the wanted `slots`, workers that were replaced earlier and still finish their work, and
        old workers that are not ready yet.
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
        """Whether the mold that is being prepared may lack newer code that an awaited reload wants."""
        return self.is_awaited and self.prepare_by is not None and bool(self._waiting)

    def hurry(self, slots: Iterable[Slot], by: float) -> None:
        """Newer code is there: in an awaited reload, let workers that are not ready at `by` be killed."""
        for slot in slots if self.is_awaited and self.is_running else ():
            for member in slot.members():
                if member.generation == self.generation and member.is_booting:
                    member.deadline = by if member.deadline is None else min(member.deadline, by)

    def concerns(self, generation: int) -> bool:
        """Whether a worker of `generation` belongs to the running reload."""
        return self.is_running and generation == self.generation

    def _is_under_way(self, slot: Slot) -> bool:
        """Whether the reload waits for `slot`: for its new worker, or for the end of its old one."""
        if slot.renewed >= self.generation:
            return False
        occupant = slot.occupant
        leaves_first = self.surge == 0 and occupant is not None and occupant.is_dismissed
        is_new = occupant is not None and occupant.generation == self.generation
        return slot.successor is not None or is_new or leaves_first

    def _may_begin(self, slot: Slot) -> bool:
        occupant = slot.occupant
        if occupant is None or occupant.is_dismissed or occupant.generation >= self.generation:
            return False  # its worker, or its next one, is of the new generation anyway
        # If the last replaced worker still finishes its work, a third one must not join the two.
        return slot.has_room
