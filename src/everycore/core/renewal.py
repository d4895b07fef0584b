"""How the workers of a pool are replaced: all of them, by a reload, or one that has reached a limit.

The steps of `core.rollout` and `core.recycling`, as actions. In both a new worker is ready before the old one
leaves, unless the surge is 0. Never both at once: a recycling that is due waits for the end of a reload.
"""

from __future__ import annotations

from typing import Final

import msgspec

from everycore.core.crew import RELOAD_SECONDS, Crew
from everycore.core.orders import (
    Action,
    Fork,
    MoldRenewal,
    Prepare,
    Recycling,
    RecyclingFailed,
    Reloaded,
    Reloading,
    ReloadStopped,
)
from everycore.core.recycling import Recycler
from everycore.core.slots import Member, Slot, SlotFailure

#: Once we have given up, workers that still boot have this long to leave by themselves: they serve nobody.
LAST_SECONDS: Final = 5.0
#: Whoever is in the way of a reload, where the code is being worked on, is killed after so many seconds.
YIELD_SECONDS: Final = 0.5


class Renewal(Crew):
    """The replacements in one pool."""

    recycler: Recycler = msgspec.field(default_factory=Recycler)
    _is_ending: bool = False

    # Reloads

    def _go_on(self, now: float) -> list[Action]:
        """The next steps of the reload that is under way, or of the next one."""
        actions: list[Action] = []
        if self.rollout.is_outdated and not self._is_ending:
            actions += self._prepare_reload(now)[1:]
        while not self._is_ending and (self.rollout.is_running or self.rollout.is_wanted):
            if not self.rollout.is_running:
                if self.rollout.prepares:
                    actions += self._prepare_reload(now)
                    break
                actions += self._begin_reload(now)
            slots = [self._slots[number] for number in sorted(self._slots) if number < self._wanted]
            slots = [slot for slot in slots if slot.is_filled]
            for member in self.rollout.in_the_way(slots, by := now + YIELD_SECONDS):
                actions += self._dismiss(member, by)
            for slot in self.rollout.next_slots(slots):
                if self.rollout.surge:
                    slot.successor = self._member(now)
                    actions.append(Fork(slot.number, self.rollout.generation))
                elif slot.occupant is not None:
                    actions += self._dismiss(slot.occupant, None)
            if not self.rollout.is_complete(slots):
                break
            actions.append(Reloaded(self.rollout.generation, self.rollout.end()))
        return actions

    def _prepare_reload(self, now: float) -> list[Action]:
        """A new mold comes first."""
        seconds = RELOAD_SECONDS if self.boot_timeout is None else self.boot_timeout
        self.rollout.prepare(now + seconds)
        generation = self.rollout.generation + 1
        return [Reloading(generation), Prepare(generation)]

    def _mold_renewed(self, given: MoldRenewal, now: float) -> list[Action]:
        """The new mold is there, or cannot be had: then nothing has changed, and the reload has failed."""
        if self.rollout.prepare_by is None or given.generation != self.rollout.generation + 1:
            return []
        if given.failure is None:
            return self._begin_reload(now)
        self.rollout.prepare_by = None
        self.rollout.generation += 1
        requests = self.rollout.end(given.failure)
        return [ReloadStopped(given.generation, requests, given.failure)]

    def _preparation_overdue(self, now: float) -> list[Action]:
        """The new mold takes too long."""
        by = self.rollout.prepare_by
        if by is None or by > now:
            return []
        generation = self.rollout.generation + 1
        actions = self._mold_renewed(MoldRenewal(generation, SlotFailure(0, None, overdue=True)), now)
        return [Prepare(generation, is_cancelled=True), *actions]

    def _begin_reload(self, now: float) -> list[Action]:
        """Nobody waits for a restart any more: what it failed by may just have been mended."""
        is_told = self.rollout.prepare_by is not None
        self.rollout.begin()
        actions: list[Action] = [] if is_told else [Reloading(self.rollout.generation)]
        for slot in self._slots.values():
            if slot.has_failed or slot.due is not None or slot.waits:
                slot.begin_anew()
            if slot.due is not None or slot.waits:
                actions.append(self._fill(slot, now))
        return actions

    def _fail_reload(self, member: Member, failure: SlotFailure, now: float) -> list[Action]:
        """`member` did not become ready: if it belongs to the reload under way, that has failed."""
        if not self.rollout.concerns(member.generation):
            return []
        generation = self.rollout.generation
        actions: list[Action] = [ReloadStopped(generation, self.rollout.end(failure), failure)]
        for slot in self._slots.values():
            if (other := slot.forgo() if slot.successor else None) is not None:
                actions += self._dismiss(other, now + LAST_SECONDS)
        return actions

    def _stop_reloads(self) -> list[Action]:
        is_preparing = self.rollout.prepare_by is not None
        was_running = self.rollout.is_running or is_preparing
        requests = self.rollout.end_all()
        if not requests and not was_running:
            return []
        generation = self.rollout.generation + is_preparing
        stopped = ReloadStopped(generation, requests, None)
        return [Prepare(generation, is_cancelled=True), stopped] if is_preparing else [stopped]

    # Limits that workers reach

    def _recycle_next(self, now: float) -> list[Action]:
        """Begin to replace the next worker that has reached a limit, if it is its turn."""
        self.recycler.let_time_pass(now)
        if self._is_ending or self.rollout.is_running:
            return []
        found = self.recycler.next(self._wanted_slots())
        if found is None:
            return []
        slot, why = found
        assert slot.occupant is not None
        assert slot.occupant.worker is not None
        begun = Recycling(slot.occupant.worker, slot.number, why)
        if not self.rollout.surge:
            return [begun, *self._dismiss(slot.occupant, None)]
        slot.successor = self._member(now, succeeds=True)
        return [begun, Fork(slot.number, self.rollout.generation)]

    def _fail_recycling(self, slot: Slot, failure: SlotFailure, now: float, chance: float) -> list[Action]:
        """The replacement did not become ready: the old one serves on."""
        assert slot.occupant is not None
        assert slot.occupant.worker is not None
        delay = self.backoff.delay(self.recycler.failures + 1, chance)
        self.recycler.failed(now, delay)
        return [RecyclingFailed(slot.occupant.worker, failure, delay)]
