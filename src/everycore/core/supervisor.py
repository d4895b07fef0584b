"""Keeps n workers alive: who is forked, dismissed, killed, and when it is hopeless.

`Supervisor.handle(input, now) -> actions` is the only entrance (`core.orders`). The driver
(`primary.keeper`) performs the actions in order and feeds back what happens; times are its clock's seconds.

Invariants:
* A slot has one live worker, or two while one replaces the other (`core.slots`): in a rolling reload
  (`core.rollout`) and when a worker is drained. With a surge of 0 it never has two, and whatever is numbered
  by slot (a file, a port) never has two owners.
* A slot that is dismissed and wanted again waits for the old worker's end.
* Every wanted slot has a live worker, or a time at which it gets one, or waits for a reload, until the end
  has begun.
* The one timer is always set to the earliest moment at which something is due.
* Every request for a reload is answered once.

Rules:
* A worker that ends without being asked by us, in whatever way, is replaced with back-off, counted per slot.
* Nobody of this pool was ever ready, and a worker ends: the application cannot boot. We give up at once
  instead of trying for ever (uvicorn and gunicorn learnt this), and the first failure is the one reported.
* Somebody was ready once: the application was fine, so we go on trying.
* A worker not ready within `boot_timeout` is killed, which is then a failure like any other; None: it may
  take for ever.
* With `may_finish`, a worker that ends with status 0 before it was ready has done its work, which was not to
  serve: its slot stays empty, and when all are, the pool has ended as it should.
* Where workers may take for ever to become ready, those of a reload have `RELOAD_SECONDS`: a reload ends.
* With `rollout.is_awaited`, the code is being worked on. A worker that ends before it is ready is not started
  again until the next reload, for the same code would fail the same way; so the pool never gives up. A reload
  waits neither for work that an earlier one has left behind, nor for old workers that are not ready yet; and
  where another one is asked for meanwhile, its own workers have `HURRY_SECONDS`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from everycore.core.orders import (
    Action,
    Dismiss,
    Drain,
    FailPool,
    Finish,
    Fork,
    Input,
    Kill,
    Reload,
    Reloaded,
    Reloading,
    ReloadStopped,
    Replace,
    ScaleTo,
    SetTimer,
    Stop,
    TimerFired,
    Wait,
    WorkerExited,
    WorkerForked,
    WorkerReady,
)
from everycore.core.restarts import Backoff
from everycore.core.rollout import Rollout
from everycore.core.slots import Member, Slot, SlotFailure, earliest, find

#: Once we have given up, workers that still boot have this long to leave by themselves: they serve nobody.
LAST_SECONDS: Final = 5.0
#: How long a reload waits for a new worker to become ready where there is no `boot_timeout`.
RELOAD_SECONDS: Final = 60.0

#: Whoever is in the way of a reload, where the code is being worked on, is killed after so many seconds.
YIELD_SECONDS: Final = 0.5
#: What a new worker has left to become ready once there is newer code, in seconds.
HURRY_SECONDS: Final = 3.0


class Supervisor(msgspec.Struct):
    """The decisions about one pool."""

    backoff: Backoff = msgspec.field(default_factory=Backoff)
    boot_timeout: float | None = 60.0
    may_finish: bool = False
    rollout: Rollout = msgspec.field(default_factory=Rollout)
    was_ever_ready: bool = False
    _slots: dict[int, Slot] = msgspec.field(default_factory=dict)
    _wanted: int = 0
    _is_ending: bool = False
    _is_finished: bool = False
    _failure: SlotFailure | None = None
    _timer: float | None = None

    def handle(self, given: Input, now: float) -> list[Action]:
        """What is to be done, in this order."""
        if self._is_finished:
            return []
        actions = self._decide(given, now)
        self._slots = {number: slot for number, slot in self._slots.items() if not slot.is_empty}
        actions += self._go_on(now)
        timer = earliest(self._slots.values())
        if timer != self._timer:
            self._timer = timer
            actions.append(SetTimer(timer))
        if self._is_ending and not self._slots:
            self._is_finished = True
            actions.append(Finish(self._failure))
        return actions

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._wanted

    def _decide(self, given: Input, now: float) -> list[Action]:
        match given:
            case ScaleTo(count):
                return self._scale(count, now)
            case WorkerForked(number, worker):
                self._slots[number].forked(worker)
                return []
            case WorkerReady(worker):
                return self._ready(worker, now)
            case WorkerExited():
                return self._exited(given, now)
            case TimerFired():
                return self._timer_fired(now)
            case Reload(request):
                self.rollout.hurry(self._slots.values(), now + HURRY_SECONDS)
                self.rollout.ask(request)
                return self._stop_reloads() if self._is_ending else []
            case Drain(worker):
                return self._drain(worker, now)
            case Stop():
                return self._end(None)

    # Who is wanted

    def _scale(self, count: int, now: float) -> list[Action]:
        if self._is_ending:
            return []
        self._wanted = count
        for number in range(count):
            self._slots.setdefault(number, Slot(number))
        missing = [self._slots[number] for number in range(count) if not self._slots[number].is_filled]
        actions: list[Action] = [self._fill(slot, now) for slot in missing]
        for slot in self._slots.values():
            if slot.number >= count:
                actions += self._dismiss_slot(slot, None)
        return actions

    def _end(self, deadline: float | None) -> list[Action]:
        if self._is_ending:
            return []
        self._is_ending = True
        self._wanted = 0
        actions = self._stop_reloads()
        for slot in self._slots.values():
            actions += self._dismiss_slot(slot, deadline)
        return actions

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

    def _drain(self, worker: int, now: float) -> list[Action]:
        found = find(self._slots.values(), worker)
        if found is None or self._is_ending:
            return []
        slot, member = found
        actions = self._dismiss(member, None)
        if member is slot.occupant and slot.successor is not None:
            slot.take_over()  # if that one fails now, it is nobody's successor: the slot has no other
        elif member is slot.occupant and slot.number < self._wanted and self.rollout.surge and slot.has_room:
            slot.give_way()
            actions.append(self._fill(slot, now))
        return actions

    # What happens to workers

    def _ready(self, worker: int, now: float) -> list[Action]:
        found = find(self._slots.values(), worker)
        if found is None:
            return []
        slot, member = found
        self.was_ever_ready = True
        member.ready_at = now
        if member.is_dismissed:  # its deadline is for leaving
            return []
        member.deadline = None
        slot.renewed = max(slot.renewed, member.generation)
        if member is slot.successor and (old := slot.take_over()) is not None:
            slot.failures = 0
            return self._dismiss(old, None)
        return []

    def _exited(self, given: WorkerExited, now: float) -> list[Action]:
        found = find(self._slots.values(), given.worker)
        if found is None:  # not one of ours: whoever has the cluster may fork more
            return []
        slot, member = found
        was_occupant = slot.remove(member)
        actions: list[Action] = []
        if not self._is_ending and slot.number < self._wanted:
            if was_occupant:
                actions += self._fill_again(slot, member, given, now)
            if member.is_booting:
                failure = SlotFailure(given.worker, given.status, member.is_overdue)
                actions += self._fail_reload(member, failure, now)
        return actions

    def _fill_again(self, slot: Slot, member: Member, given: WorkerExited, now: float) -> list[Action]:
        """The occupant of a wanted slot is gone."""
        if member.is_dismissed:
            slot.failures = 0
            return [] if slot.is_filled else [self._fill(slot, now)]
        if member.ready_at is None and self.rollout.awaits_next(member.generation):
            slot.waits = not slot.is_filled
            is_told = self.rollout.is_running
            return [] if is_told else [Wait(SlotFailure(given.worker, given.status, member.is_overdue))]
        if self.may_finish and member.ready_at is None and given.status.code == 0:
            return [] if any(other.is_filled for other in self._slots.values()) else self._end(None)
        if not self.was_ever_ready:
            self._failure = SlotFailure(given.worker, given.status, member.is_overdue)
            return [FailPool(self._failure), *self._end(now + LAST_SECONDS)]
        delay = 0.0
        if not slot.is_filled:
            healthy_for = 0.0 if member.ready_at is None else now - member.ready_at
            slot.failures = self.backoff.failures(slot.failures, healthy_for)
            delay = self.backoff.delay(slot.failures, given.chance)
            slot.due = now + delay
        return [Replace(given.worker, slot.number, given.status, member.is_overdue, delay)]

    def _timer_fired(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for slot in self._slots.values():
            if slot.due is not None and slot.due <= now:
                actions.append(self._fill(slot, now))
            for member in slot.members():
                if member.deadline is not None and member.deadline <= now:
                    actions += self._overdue(slot, member, now)
        return actions

    def _overdue(self, slot: Slot, member: Member, now: float) -> list[Action]:
        assert member.worker is not None
        member.deadline = None
        if self.boot_timeout is None and member is slot.occupant and not member.is_dismissed:
            # Only the reload does not wait any longer: the worker itself may take for ever.
            return self._fail_reload(member, SlotFailure(member.worker, None, overdue=True), now)
        member.is_overdue = True
        return [Kill(member.worker)]

    # Reloads

    def _go_on(self, now: float) -> list[Action]:
        """The next steps of the reload that is under way, or of the next one."""
        actions: list[Action] = []
        while not self._is_ending and (self.rollout.is_running or self.rollout.is_wanted):
            if not self.rollout.is_running:
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

    def _begin_reload(self, now: float) -> list[Action]:
        """Nobody waits for a restart any more: what it failed by may just have been mended."""
        self.rollout.begin()
        actions: list[Action] = [Reloading(self.rollout.generation)]
        for slot in self._slots.values():
            if slot.due is not None or slot.waits:
                slot.failures = 0
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
        was_running = self.rollout.is_running
        requests = self.rollout.end_all()
        if not requests and not was_running:
            return []
        return [ReloadStopped(self.rollout.generation, requests, None)]

    # Bookkeeping

    def _fill(self, slot: Slot, now: float) -> Action:
        slot.due, slot.waits = None, False
        slot.occupant = self._member(now)
        return Fork(slot.number, self.rollout.generation)

    def _member(self, now: float) -> Member:
        seconds = self.boot_timeout
        if seconds is None and self.rollout.is_running:
            seconds = RELOAD_SECONDS
        return Member(self.rollout.generation, None if seconds is None else now + seconds)
