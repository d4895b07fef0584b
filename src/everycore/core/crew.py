"""The slots of a pool, and how they are filled and emptied: what `core.supervisor` stands on."""

from __future__ import annotations

from typing import Final

import msgspec

from everycore.core.orders import Action, Dismiss, Fork
from everycore.core.restarts import Backoff, Intensity
from everycore.core.rollout import Rollout
from everycore.core.slots import Member, Slot

#: How long a reload waits for a new worker to become ready where there is no `boot_timeout`.
RELOAD_SECONDS: Final = 60.0


class Crew(msgspec.Struct):
    """The workers of one pool, by slot."""

    backoff: Backoff = msgspec.field(default_factory=Backoff)
    boot_timeout: float | None = 60.0
    may_finish: bool = False
    rollout: Rollout = msgspec.field(default_factory=Rollout)
    intensity: Intensity = msgspec.field(default_factory=Intensity)
    _slots: dict[int, Slot] = msgspec.field(default_factory=dict)
    _wanted: int = 0

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._wanted

    @property
    def failed_slots(self) -> tuple[int, ...]:
        """The wanted slots of which too many workers have ended too soon."""
        return tuple(number for number, slot in sorted(self._wanted_slots().items()) if slot.has_failed)

    def _wanted_slots(self) -> dict[int, Slot]:
        return {number: slot for number, slot in self._slots.items() if number < self._wanted}

    def _dismiss_slot(self, slot: Slot, deadline: float | None) -> list[Action]:
        slot.due, slot.waits = None, False
        return [action for member in slot.members() for action in self._dismiss(member, deadline)]

    def _dismiss(self, member: Member, deadline: float | None) -> list[Action]:
        """Ask for its end, once; how long it may take is the cluster's `grace`, or the `deadline` given."""
        if deadline is not None or not member.is_dismissed:
            member.deadline = deadline
        if member.is_dismissed or member.worker is None:
            return []
        member.is_dismissed = True
        return [Dismiss(member.worker)]

    def _fill(self, slot: Slot, now: float) -> Action:
        slot.due, slot.waits = None, False
        slot.occupant = self._member(now)
        return Fork(slot.number, self.rollout.generation)

    def _member(self, now: float, *, succeeds: bool = False) -> Member:
        """A new worker. `succeeds`: another one leaves when it is ready, so there has to be a limit."""
        seconds = self.boot_timeout
        if seconds is None and (succeeds or self.rollout.is_running):
            seconds = RELOAD_SECONDS
        return Member(self.rollout.generation, None if seconds is None else now + seconds, born_at=now)
