"""Keeps n workers alive: who is forked, dismissed, killed, and when it is hopeless.

`Supervisor.handle(input, now) -> actions` is the only entrance (`core.orders`). The driver
(`primary.keeper`) performs the actions in order and feeds back what happens; times are its clock's seconds.

Invariants:
* A slot has one live worker, or two while one replaces the other (`core.slots`): in a rolling reload
  (`core.rollout`), when a worker has reached a limit, and when it is drained. With a surge of 0 it never has
  two, and whatever is numbered by slot (a file, a port) never has two owners.
* A slot that is dismissed and wanted again waits for the old worker's end.
* Every wanted slot has a live worker, or a time at which it gets one, or waits for a reload, until the end
  has begun.
* The one timer is always set to the earliest moment at which something is due.
* Every request for a reload is answered once.

Rules:
* A worker that ends without being asked by us, in whatever way, is replaced with back-off, counted per slot.
* Nobody of this pool was ever ready, and a worker ends: the application cannot boot. We give up at once
  instead of trying for ever (uvicorn and gunicorn learnt this), and the first failure is the one reported.
* Where workers are forked from a mold, which takes milliseconds, one that was ready is replaced at once if it
  is the first to end in a row.
* Somebody was ready once: the application was fine, so we go on trying, unless there is an `intensity`. So
  was a program (`may_finish`) that has lived as long as a healthy worker does, unless it was told that its
  address is in use: on a busy machine it may take that long to end for it.
* A worker not ready within `boot_timeout` is killed, which is then a failure like any other; None: it may
  take for ever.
* With an `intensity`, a slot whose workers end too often, or in a row before they are ready, has *failed*: it
  is tried at the longest wait, and is well again once a worker of it has been ready for as long as one has to
  be for a short wait. All slots have failed and nobody serves: the pool gives up, so that whoever supervises
  it acts. A reload begins anew.
* A worker that has reached a limit is replaced when its turn comes (`core.recycling`).
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
    Drain,
    FailPool,
    Finish,
    Input,
    Kill,
    MoldRenewal,
    Recycle,
    Reload,
    Replace,
    ScaleTo,
    SetTimer,
    SlotFailed,
    SlotWorks,
    Stop,
    TimerFired,
    Wait,
    WorkerExited,
    WorkerForked,
    WorkerReady,
)
from everycore.core.renewal import LAST_SECONDS, Renewal
from everycore.core.slots import Member, Slot, SlotFailure, earliest, find

#: What a new worker has left to become ready once there is newer code, in seconds.
HURRY_SECONDS: Final = 3.0


class Supervisor(Renewal):
    """The decisions about one pool."""

    was_ever_ready: bool = False
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
        actions += self._recycle_next(now)
        timer = earliest(self._slots.values(), self.recycler.resume_at, self.rollout.prepare_by)
        if timer != self._timer:
            self._timer = timer
            actions.append(SetTimer(timer))
        if self._is_ending and not self._slots:
            self._is_finished = True
            actions.append(Finish(self._failure))
        return actions

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
            case Recycle(worker, why):
                if find(self._slots.values(), worker) is not None:
                    self.recycler.ask(worker, why)
                return []
            case MoldRenewal():
                return [] if self._is_ending else self._mold_renewed(given, now)
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
        old = slot.take_over() if member is slot.successor else None
        if slot.has_failed:
            slot.well_at = now + self.backoff.healthy_after
        if old is None:
            return []
        slot.failures = 0
        self.recycler.succeeded()
        return self._dismiss(old, None)

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
                if not was_occupant and self.recycler.is_replacing(slot):
                    actions += self._fail_recycling(slot, failure, now, given.chance)
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
        lived = now - member.born_at
        if self.may_finish and lived >= self.backoff.healthy_after and not given.was_refused:
            self.was_ever_ready = True  # we only do not see what it served by
        if not self.was_ever_ready:
            self._failure = SlotFailure(given.worker, given.status, member.is_overdue)
            return [FailPool(self._failure), *self._end(now + LAST_SECONDS)]
        return self._restart(slot, member, given, now)

    def _restart(self, slot: Slot, member: Member, given: WorkerExited, now: float) -> list[Action]:
        """Its occupant has ended unasked, and there was one that was ready: it gets another."""
        end = Replace(given.worker, slot.number, given.status, member.is_overdue, 0.0)
        if slot.is_filled:
            return [end]
        healthy_for = 0.0 if member.ready_at is None else now - member.ready_at
        slot.failures = self.backoff.failures(slot.failures, healthy_for)
        # A program whose listener is invisible counts as having served if it has lived this long.
        has_served = self.may_finish and now - member.born_at >= self.intensity.seconds
        in_vain = member.ready_at is None and (given.was_refused or not has_served)
        has_just_failed = slot.note_end(now, self.intensity, in_vain=in_vain)
        delay = self.backoff.delay(slot.failures, given.chance)
        if slot.has_failed:
            delay = self.backoff.longest(given.chance)
        is_first = slot.failures == 1 and member.ready_at is not None and not slot.has_failed
        if self.rollout.prepares and is_first:
            return [end, self._fill(slot, now)]
        slot.due = now + delay
        if self._is_hopeless():
            self._failure = SlotFailure(given.worker, given.status, member.is_overdue, slot.lost)
            return [FailPool(self._failure), *self._end(now + LAST_SECONDS)]
        end = msgspec.structs.replace(end, delay=delay, is_known=slot.has_failed)
        return [SlotFailed(slot.lost, end)] if has_just_failed else [end]

    def _is_hopeless(self) -> bool:
        """Whether all slots have failed, and nobody serves."""
        wanted = self._wanted_slots().values()
        return not self.rollout.is_awaited and all(
            slot.has_failed and not any(member.is_serving for member in slot.members()) for slot in wanted
        )

    def _timer_fired(self, now: float) -> list[Action]:
        actions = self._preparation_overdue(now)
        for slot in self._slots.values():
            if slot.due is not None and slot.due <= now:
                actions.append(self._fill(slot, now))
            if slot.well_at is not None and slot.well_at <= now:
                slot.well_at = None
                if slot.occupant is not None and slot.occupant.worker is not None:
                    actions.append(SlotWorks(slot.number, slot.occupant.worker, slot.lost))
                    slot.begin_anew()
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
