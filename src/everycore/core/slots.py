"""The slots of a pool, and the workers in them.

Say which workers a slot has and what each of them is there: the occupant, who serves; the successor, who
boots beside it and takes its place; the leaver, who was replaced and finishes its work.

Invariants:
* A slot has at most two live workers: the occupant, and one of the other two.
* A successor is always beside an occupant: it becomes the occupant if that one ends first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from everycore.core.restarts import Intensity
from everycore.model import ExitStatus


class Member(msgspec.Struct):
    """A worker, from the decision to fork it to its end. Times are in seconds, by the supervisor's clock."""

    generation: int
    deadline: float | None = None
    """When it is killed unless it is ready, or, once it is dismissed, gone."""
    worker: int | None = None
    """Its id; None until the fork is done."""
    born_at: float = 0.0
    ready_at: float | None = None
    is_dismissed: bool = False
    is_overdue: bool = False

    @property
    def is_booting(self) -> bool:
        """Whether it is to become ready, and is not yet."""
        return self.ready_at is None and not self.is_dismissed

    @property
    def is_serving(self) -> bool:
        """Whether it is ready, and nobody has asked it to leave."""
        return self.ready_at is not None and not self.is_dismissed


class SlotFailure(msgspec.Struct, frozen=True):
    """A worker that did not become ready; 0: a new mold.

    It ended with `status`. overdue: it was not ready in time, and was killed for that; with `status` None it
    was not. ends: it may have been ready, but was the last of so many to end in its slot; 0: not for that.
    """

    worker: int
    status: ExitStatus | None
    overdue: bool
    ends: int = 0


class Slot(msgspec.Struct):
    """One slot. `due`: when it gets its next occupant, while it has none."""

    number: int
    occupant: Member | None = None
    successor: Member | None = None
    leaver: Member | None = None
    failures: int = 0
    """How often in a row its occupant has ended without being asked."""
    due: float | None = None
    waits: bool = False
    """It has no occupant until the next reload: what is there now cannot start."""
    ends: list[float] = msgspec.field(default_factory=list)
    """When its last occupants have ended unasked; no more of them than count."""
    in_vain: int = 0
    """How many of its workers in a row have ended unasked without having been ready."""
    lost: int = 0
    """How many have, since it failed and before; 0: it has not failed."""
    well_at: float | None = None
    """It has failed, and has a ready occupant: when it counts as well again, if that one lives."""
    renewed: int = -1
    """The highest generation of which a worker was ready here."""

    @property
    def has_failed(self) -> bool:
        """Whether too many of its workers have ended too soon."""
        return self.lost > 0

    def note_end(self, now: float, intensity: Intensity, *, in_vain: bool) -> bool:
        """Record that the occupant has ended unasked. Returns whether the slot has just failed.

        in_vain: the occupant could not start. Such ends count however long each of them took.
        """
        self.well_at = None
        self.in_vain = self.in_vain + 1 if in_vain else 0
        if self.has_failed:
            self.lost += 1
            return False
        if intensity.ends is None:
            return False
        self.ends = [at for at in (*self.ends, now) if at > now - intensity.seconds]
        if max(len(self.ends), self.in_vain) < intensity.ends:
            return False
        self.lost = intensity.ends
        return True

    def begin_anew(self) -> None:
        """What was is no reason any more to expect that it fails."""
        self.failures = self.lost = self.in_vain = 0
        self.ends = []
        self.well_at = None

    def members(self) -> Iterator[Member]:
        """The workers here."""
        for member in (self.occupant, self.successor, self.leaver):
            if member is not None:
                yield member

    @property
    def is_filled(self) -> bool:
        """Whether it has an occupant, or gets one when its time comes, or with the next reload."""
        return self.occupant is not None or self.due is not None or self.waits

    @property
    def is_empty(self) -> bool:
        """Whether nobody is here, and nobody is due."""
        return not self.is_filled and self.leaver is None

    @property
    def has_room(self) -> bool:
        """Whether a second worker may start here."""
        return self.successor is None and self.leaver is None

    def forked(self, worker: int) -> None:
        """The member that was decided on last is `worker`."""
        member = next(member for member in self.members() if member.worker is None)
        member.worker = worker

    def take_over(self) -> Member | None:
        """The successor takes the occupant's place; returns the one that has to leave."""
        self.occupant, self.successor, self.leaver = self.successor, None, self.occupant
        return self.leaver

    def give_way(self) -> None:
        """The occupant leaves, and the slot is free for another."""
        self.occupant, self.leaver = None, self.occupant

    def forgo(self) -> Member | None:
        """The successor is not wanted any more; returns it."""
        self.successor, self.leaver = None, self.successor
        return self.leaver

    def remove(self, member: Member) -> bool:
        """`member` is gone. Returns whether it was the occupant; the successor is then."""
        if member is self.occupant:
            self.occupant, self.successor = self.successor, None
            return True
        if member is self.successor:
            self.successor = None
        else:
            self.leaver = None
        return False


def find(slots: Iterable[Slot], worker: int) -> tuple[Slot, Member] | None:
    """Where the worker with that id is."""
    return next(
        ((slot, member) for slot in slots for member in slot.members() if member.worker == worker), None
    )


def earliest(slots: Iterable[Slot], *others: float | None) -> float | None:
    """The next moment at which something is due in one of the slots, or of the `others`."""
    moments = [
        moment
        for slot in slots
        for moment in (slot.due, slot.well_at, *(it.deadline for it in slot.members()))
    ]
    moments += others
    return min((moment for moment in moments if moment is not None), default=None)
