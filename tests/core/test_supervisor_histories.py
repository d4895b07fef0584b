"""The invariants of a pool's supervisor hold for any events in any order."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from everycore.core.orders import (
    Dismiss,
    Drain,
    FailPool,
    Recycle,
    Reloaded,
    ReloadStopped,
    ScaleTo,
    Stop,
    TimerFired,
)
from everycore.core.slots import SlotFailure
from everycore.model import ExitStatus
from tests.kit.numbered_pools import CRASH, DONE, Pool

NO_MOLD = SlotFailure(0, CRASH, overdue=False)


class Histories(RuleBasedStateMachine):
    """Deaths, reloads, failures to boot, scales, stops."""

    surge = 1
    is_awaited = False
    give_up: int | None = None
    prepares = False

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(surge=self.surge, give_up=self.give_up, prepares=self.prepares)
        self.pool.supervisor.rollout.is_awaited = self.is_awaited
        self.wanted = 0
        self.ended = False

    @property
    def was_ready(self) -> bool:
        return bool(self.pool.is_ready)

    @initialize(count=st.integers(1, 4))
    def start(self, count: int) -> None:
        self.scale(count)

    @rule(count=st.integers(1, 5))
    def scale(self, count: int) -> None:
        if not self.ended:
            self.wanted = count
        self.pool.tell(ScaleTo(count))

    @precondition(lambda self: set(self.pool.live) - self.pool.is_ready)
    @rule(data=st.data())
    def become_ready(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(set(self.pool.live) - self.pool.is_ready)))
        asked = set(self.pool.dismissed)
        actions = self.pool.ready(worker)
        for action in actions:
            if isinstance(action, Dismiss) and self.surge:
                if self.is_awaited and (action.worker in asked or action.worker not in self.pool.is_ready):
                    continue  # it is in the way of newer code
                # The replaced worker has a successor, which is ready.
                slot = self.pool.live[action.worker]
                there = [other for other in self.pool.staying if self.pool.live[other] == slot]
                assert there == [worker]

    @precondition(lambda self: self.pool.live)
    @rule(data=st.data(), status=st.sampled_from([CRASH, DONE]))
    def end_one(self, data: st.DataObject, status: ExitStatus) -> None:
        worker = data.draw(st.sampled_from(sorted(self.pool.live)))
        slot = self.pool.live[worker]
        was_asked = worker in self.pool.dismissed
        was_alone = [other for other in self.pool.staying if self.pool.live[other] == slot][:1] == [worker]
        actions = self.pool.exit(worker, status)
        gave_up = any(isinstance(action, FailPool) for action in actions)
        is_hopeless = not self.was_ready and was_alone and not self.is_awaited
        if gave_up and self.was_ready:
            # All slots have failed, and no live worker is ready: a ready one would serve.
            assert self.give_up is not None
            assert not self.is_awaited
            assert not (set(self.pool.staying) & self.pool.is_ready)
        else:
            assert gave_up == (not self.ended and not was_asked and is_hopeless)
        self.ended = self.ended or gave_up

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.pool.let_time_pass(seconds)

    @rule()
    def wake_too_early(self) -> None:
        self.pool.tell(TimerFired())

    @precondition(lambda self: self.pool.finished is None)
    @rule()
    def reload(self) -> None:
        self.pool.reload()

    @precondition(lambda self: self.pool.prepares_for is not None)
    @rule(is_there=st.booleans())
    def mold_is_renewed(self, *, is_there: bool) -> None:
        pool = self.pool
        before = dict(pool.live)
        pool.renewed(None if is_there else NO_MOLD)
        if not is_there and not self.is_awaited:
            assert pool.live == before
            assert not pool.supervisor.rollout.is_running

    @precondition(lambda self: self.pool.live)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        self.pool.tell(Drain(data.draw(st.sampled_from(sorted(self.pool.live)))))

    @precondition(lambda self: self.pool.live)
    @rule(data=st.data())
    def reach_a_limit(self, data: st.DataObject) -> None:
        self.pool.tell(Recycle(data.draw(st.sampled_from(sorted(self.pool.live))), "too old"))

    @precondition(lambda self: self.was_ready)
    @rule()
    def stop(self) -> None:
        self.pool.tell(Stop())
        self.ended = True

    @invariant()
    def nobody_unwanted_stays(self) -> None:
        assert set(self.pool.staying.values()) <= set(range(0 if self.ended else self.wanted))

    @invariant()
    def a_slot_has_one_worker_or_two_of_which_one_replaces_the_other(self) -> None:
        most = 2 if self.surge else 1
        assert all(count <= most for count in Counter(self.pool.live.values()).values())
        boots_beside = [slot for slot, count in Counter(self.pool.staying.values()).items() if count == 2]
        # One worker that has reached a limit is replaced at a time, and a reload may begin meanwhile.
        assert len(boots_beside) <= max(1, self.surge if self.pool.supervisor.rollout.is_running else 0)

    @invariant()
    def no_slot_is_forgotten(self) -> None:
        waiting = {slot.number for slot in self.pool.supervisor._slots.values() if slot.waits}
        assert self.is_awaited or not waiting
        if not self.ended and set(self.pool.live.values()) | waiting < set(range(self.wanted)):
            assert self.pool.timer is not None
            assert self.pool.timer >= self.pool.now

    @invariant()
    def ends_exactly_when_the_last_is_gone(self) -> None:
        assert (self.pool.finished is not None) == (self.ended and not self.pool.live)

    @invariant()
    def a_reload_touches_nobody_before_its_mold_is_there(self) -> None:
        rollout = self.pool.supervisor.rollout
        if rollout.prepare_by is not None:
            assert not rollout.is_running
            assert all(self.pool.generations[worker] <= rollout.generation for worker in self.pool.live)

    @invariant()
    def a_reload_is_over_when_all_are_new_and_none_is_forgotten(self) -> None:
        rollout = self.pool.supervisor.rollout
        unanswered = set(range(1, self.pool.requests + 1)) - set(self.pool.answers)
        is_preparing = rollout.prepare_by is not None
        assert bool(unanswered) == (rollout.is_running or is_preparing)
        assert is_preparing == (self.pool.prepares_for is not None)
        if not self.ended and rollout.is_running:
            # Something is under way: a worker starts or leaves, or a timer is set.
            booting = set(self.pool.live) - self.pool.is_ready
            assert booting or self.pool.dismissed or self.pool.timer is not None

    def teardown(self) -> None:
        """From any state: every starting worker becomes ready, every asked one leaves, and all is well."""
        pool = self.pool
        if self.ended:
            for worker in list(pool.live):
                pool.exit(worker, DONE)
            assert pool.finished is not None
            assert len(pool.answers) == pool.requests
            return
        if self.is_awaited:
            pool.reload()  # the code is fixed
        for _ in range(20 * (2 + pool.requests)):
            if pool.prepares_for is not None:
                pool.renewed()
            for worker in list(pool.live):
                if worker in pool.dismissed:
                    pool.exit(worker, DONE)
                elif worker not in pool.is_ready:
                    pool.ready(worker)
            pool.let_time_pass(1)
        assert sorted(pool.live.values()) == list(range(self.wanted))
        assert len(pool.answers) == pool.requests
        last = pool.answers.get(pool.requests)
        if isinstance(last, Reloaded):
            assert {pool.generations[worker] for worker in pool.live} == {last.generation}
        else:
            assert last is None or isinstance(last, ReloadStopped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("surge", "is_awaited", "give_up", "prepares"),
    [
        (0, False, None, False),
        (1, False, 3, False),
        (2, False, None, False),
        (0, True, None, False),
        (1, True, 2, False),
        (0, False, 3, True),
        (1, True, None, True),
    ],
)
def test_histories(surge, is_awaited, give_up, prepares):
    members = {"surge": surge, "is_awaited": is_awaited, "give_up": give_up, "prepares": prepares}
    machine = type("Histories", (Histories,), members)
    run_state_machine_as_test(machine, settings=settings(max_examples=80, stateful_step_count=40))
