"""A rolling reload: which worker is replaced when, and the result. No process, no clock."""

import pytest

from everycore.core.crew import RELOAD_SECONDS
from everycore.core.orders import (
    Dismiss,
    Drain,
    FailPool,
    Fork,
    Kill,
    Reload,
    Reloaded,
    Reloading,
    ReloadStopped,
    Replace,
    ScaleTo,
    SetTimer,
    Stop,
)
from everycore.core.renewal import LAST_SECONDS
from everycore.core.slots import SlotFailure
from everycore.model import ExitStatus
from tests.kit.numbered_pools import BOOT_TIMEOUT, CRASH, DONE, Pool


def running(count: int = 3, **options) -> Pool:
    """Ready workers, 1 to `count`, in the slots from 0."""
    pool = Pool(**options)
    pool.tell(ScaleTo(count))
    pool.ready(*range(1, count + 1))
    return pool


def finish(pool: Pool) -> None:
    """Let every starting worker become ready, and every worker that was asked to leave do so."""
    while todo := pool.dismissed | (set(pool.live) - pool.is_ready):
        worker = min(todo)
        if worker in pool.dismissed:
            pool.exit(worker, DONE)
        else:
            pool.ready(worker)


# One after the other


def test_the_new_one_is_ready_before_the_old_one_leaves_which_finishes_while_the_next_begins():
    pool = running()
    assert pool.tell(Reload(1)) == [Reloading(1), Fork(0, 1), SetTimer(BOOT_TIMEOUT)]
    assert pool.ready(4) == [Dismiss(1), Fork(1, 1)]
    assert pool.ready(5) == [Dismiss(2), Fork(2, 1)]
    assert pool.ready(6) == [Dismiss(3), Reloaded(1, (1,)), SetTimer(None)]
    assert pool.live == {1: 0, 2: 1, 3: 2, 4: 0, 5: 1, 6: 2}
    for worker in (1, 2, 3):
        assert pool.exit(worker, DONE) == []


def test_surge_is_how_many_at_a_time():
    pool = running(surge=2)
    assert pool.tell(Reload(1))[1:3] == [Fork(0, 1), Fork(1, 1)]
    assert pool.ready(5) == [Dismiss(2), Fork(2, 1)]


def test_surge_of_nothing_stops_the_old_one_first():
    pool = running(2, surge=0)
    assert pool.tell(Reload(1)) == [Reloading(1), Dismiss(1)]
    assert pool.exit(1, DONE) == [Fork(0, 1), SetTimer(BOOT_TIMEOUT)]
    assert pool.ready(3) == [Dismiss(2), SetTimer(None)]
    assert pool.exit(2, DONE) == [Fork(1, 1), SetTimer(BOOT_TIMEOUT)]
    assert pool.ready(4) == [Reloaded(1, (1,)), SetTimer(None)]


def test_no_third_worker_beside_two():
    pool = running(1)
    pool.reload()
    pool.ready(2)
    assert pool.tell(Reload(2)) == [Reloading(2)]
    assert Fork(0, 2) in pool.exit(1, DONE)
    assert Reloaded(2, (2,)) in pool.ready(3)


def test_what_replaces_the_dead_later_has_the_generation_of_the_reload():
    pool = running(1)
    pool.reload()
    pool.ready(2)
    pool.exit(1, DONE)
    pool.exit(2)
    assert Fork(0, 1) in pool.let_time_pass(0.1)


# Two at once


def test_two_that_wait_are_one_reload_after_the_first():
    pool = running(1)
    first, second, third = pool.reload(), pool.reload(), pool.reload()
    assert pool.forks == 2
    assert pool.ready(2)[:3] == [Dismiss(1), Reloaded(1, (first,)), Reloading(2)]
    assert Fork(0, 2) in pool.exit(1, DONE)
    assert Reloaded(2, (second, third)) in pool.ready(3)


def test_the_second_begins_though_the_first_has_failed():
    pool = running(1)
    first, second = pool.reload(), pool.reload()
    stopped = ReloadStopped(1, (first,), SlotFailure(2, CRASH, overdue=False))
    assert pool.exit(2) == [stopped, Reloading(2), Fork(0, 2)]
    pool.ready(3)
    assert pool.answers[second] == Reloaded(2, (second,))


# One that fails


@pytest.mark.parametrize("status", [CRASH, DONE, ExitStatus(code=3), ExitStatus(error=OSError(2, "no"))])
@pytest.mark.parametrize("may_finish", [False, True])
def test_what_was_replaced_stays_and_what_was_not_stays(status, may_finish):
    pool = running(may_finish=may_finish)
    request = pool.reload()
    pool.ready(4)
    failure = SlotFailure(5, status, overdue=False)
    assert pool.exit(5, status) == [ReloadStopped(1, (request,), failure), SetTimer(None)]
    pool.exit(1, DONE)
    assert pool.live == {2: 1, 3: 2, 4: 0}
    assert pool.supervisor.rollout.failure == failure


def test_one_that_is_not_ready_in_time_is_killed_and_fails_it():
    pool = running()
    request = pool.reload()
    assert pool.let_time_pass(BOOT_TIMEOUT) == [Kill(4), SetTimer(None)]
    assert pool.exit(4) == [ReloadStopped(1, (request,), SlotFailure(4, CRASH, overdue=True))]


def test_others_that_boot_are_not_wanted_any_more():
    pool = running(surge=2)
    pool.reload()
    assert Dismiss(5) in pool.exit(4)
    assert Kill(5) in pool.let_time_pass(LAST_SECONDS)
    assert pool.exit(5) == []
    assert pool.live == {1: 0, 2: 1, 3: 2}


def test_a_death_later_is_made_good_with_back_off_from_what_is_there():
    pool = running()
    pool.reload()
    pool.exit(4)
    assert Replace(2, 1, CRASH, overdue=False, delay=0.1) in pool.exit(2)
    assert pool.let_time_pass(0.1)[0] == Fork(1, 1)
    assert Replace(5, 1, CRASH, overdue=False, delay=0.2) in pool.exit(5)
    assert pool.live == {1: 0, 3: 2}


def test_the_next_one_may_succeed():
    pool = running()
    pool.reload()
    pool.exit(4)
    request = pool.reload()
    assert pool.supervisor.rollout.failure is None
    finish(pool)
    assert pool.answers[request] == Reloaded(2, (request,))
    assert {pool.generations[worker] for worker in pool.live} == {2}


def test_stopped_first_and_failed_the_slot_is_filled_with_back_off():
    pool = running(2, surge=0)
    pool.reload()
    pool.exit(1, DONE)
    actions = pool.exit(3)
    assert Replace(3, 0, CRASH, overdue=False, delay=0.1) in actions
    assert any(isinstance(action, ReloadStopped) for action in actions)
    assert pool.staying == {2: 1}


def test_a_reload_ends_also_where_workers_may_take_for_ever():
    pool = running(1, boot_timeout=None)
    request = pool.reload()
    assert pool.let_time_pass(RELOAD_SECONDS) == [Kill(2), SetTimer(None)]
    pool.exit(2)
    assert pool.answers[request] == ReloadStopped(1, (request,), SlotFailure(2, CRASH, overdue=True))


def test_of_two_that_may_take_for_ever_the_one_that_has_the_slot_lives_on():
    pool = running(1, boot_timeout=None, surge=0)
    request = pool.reload()
    pool.exit(1, DONE)
    pool.let_time_pass(RELOAD_SECONDS)
    assert pool.answers[request] == ReloadStopped(1, (request,), SlotFailure(2, None, overdue=True))
    assert pool.staying == {2: 0}


# During a death


def test_the_old_one_dies_while_its_successor_boots():
    pool = running(2)
    request = pool.reload()
    assert pool.exit(1) == [Replace(1, 0, CRASH, overdue=False, delay=0.0)]
    pool.ready(3)
    pool.ready(4)
    assert pool.answers[request] == Reloaded(1, (request,))
    assert pool.forks == 4


def test_successor_of_a_dead_one_fails():
    pool = running(2)
    request = pool.reload()
    pool.exit(1)
    actions = pool.exit(3)
    assert Replace(3, 0, CRASH, overdue=False, delay=0.1) in actions
    assert isinstance(pool.answers[request], ReloadStopped)
    pool.let_time_pass(0.1)
    assert pool.live == {2: 1, 4: 0}


def test_a_slot_that_waits_for_a_restart_is_started_at_once():
    pool = running(2)
    for worker in (1, 3, 4, 5):
        pool.exit(worker)
        pool.let_time_pass(2.0 if worker != 5 else 0.0)
    assert pool.tell(Reload(1))[:2] == [Reloading(1), Fork(0, 1)]
    # It counts as the one under way.
    assert pool.live == {2: 1, 6: 0}
    assert Fork(1, 1) in pool.ready(6)


def test_one_that_dies_after_it_was_ready_does_not_hold_the_reload_up():
    pool = running(2)
    request = pool.reload()
    pool.ready(3)
    pool.exit(3)
    pool.ready(4)
    assert pool.answers[request] == Reloaded(1, (request,))


# During scaling and stopping


def test_scaled_down_meanwhile():
    pool = running(3)
    request = pool.reload()
    pool.ready(4)
    assert pool.tell(ScaleTo(1)) == [
        Dismiss(2),
        Dismiss(5),
        Dismiss(3),
        Reloaded(1, (request,)),
        SetTimer(None),
    ]
    assert pool.staying == {4: 0}


def test_scaled_up_meanwhile_the_new_ones_are_of_the_new_generation_and_belong_to_it():
    pool = running(1)
    request = pool.reload()
    assert pool.tell(ScaleTo(2)) == [Fork(1, 1)]
    pool.ready(2)
    assert request not in pool.answers
    pool.ready(3)
    assert pool.answers[request] == Reloaded(1, (request,))
    assert pool.staying == {2: 0, 3: 1}


def test_one_that_was_scaled_away_and_is_wanted_again_waits_for_its_end():
    pool = running(2)
    pool.tell(ScaleTo(1))
    pool.tell(ScaleTo(2))
    request = pool.reload()
    pool.ready(3)
    assert request not in pool.answers
    assert Fork(1, 1) in pool.exit(2, DONE)
    pool.ready(4)
    assert pool.answers[request] == Reloaded(1, (request,))


def test_stopped_meanwhile():
    pool = running(2)
    first, second = pool.reload(), pool.reload()
    actions = pool.tell(Stop())
    assert actions == [ReloadStopped(1, (first, second), None), *map(Dismiss, (1, 3, 2)), SetTimer(None)]
    for worker in (1, 2, 3):
        pool.exit(worker, DONE)
    assert pool.finished is not None


def test_asked_for_while_the_pool_ends():
    pool = running(1)
    pool.tell(Stop())
    assert pool.tell(Reload(7)) == [ReloadStopped(0, (7,), None)]


def test_the_first_start_may_be_reloaded():
    pool = Pool()
    pool.tell(ScaleTo(1))
    request = pool.reload()
    pool.ready(2)
    assert pool.answers[request] == Reloaded(1, (request,))
    assert pool.staying == {2: 0}


def test_no_worker_was_ever_ready_and_the_old_one_ends():
    pool = Pool()
    pool.tell(ScaleTo(1))
    request = pool.reload()
    pool.exit(1)
    assert pool.answers[request] == ReloadStopped(1, (request,), None)
    pool.exit(2)
    assert pool.finished is not None
    assert pool.finished.failure == SlotFailure(1, CRASH, overdue=False)


def test_slots_whose_work_is_done_are_left_out():
    pool = Pool(may_finish=True, boot_timeout=None)
    pool.tell(ScaleTo(2))
    pool.ready(1)
    pool.exit(2, DONE)
    request = pool.reload()
    pool.ready(3)
    assert pool.answers[request] == Reloaded(1, (request,))
    assert pool.staying == {3: 0}


# Draining one


def test_a_drained_one_leaves_at_once_and_another_starts_beside_it():
    pool = running(2)
    assert pool.tell(Drain(1)) == [Dismiss(1), Fork(0, 0), SetTimer(BOOT_TIMEOUT)]
    pool.ready(3)
    assert pool.exit(1, DONE) == []
    assert pool.live == {2: 1, 3: 0}


def test_stopped_first_a_drained_one_is_waited_for():
    pool = running(2, surge=0)
    assert pool.tell(Drain(1)) == [Dismiss(1)]
    assert pool.exit(1, DONE)[0] == Fork(0, 0)


def test_draining_twice_is_draining_once():
    pool = running(1)
    pool.tell(Drain(1))
    assert pool.tell(Drain(1)) == []
    assert pool.tell(Drain(99)) == []


def test_drained_in_a_reload():
    pool = running(1)
    request = pool.reload()
    assert pool.tell(Drain(1)) == [Dismiss(1)]
    pool.exit(1, DONE)
    pool.ready(2)
    assert pool.answers[request] == Reloaded(1, (request,))
    assert pool.live == {2: 0}


def test_a_successor_whose_slot_has_no_other_worker_any_more_is_the_slots_own():
    """No worker was ever ready, and the one to be replaced is drained: the application cannot start."""
    pool = Pool(surge=1)
    pool.tell(ScaleTo(1))
    pool.reload()
    pool.tell(Drain(1))
    actions = pool.exit(2, CRASH)
    assert any(isinstance(action, FailPool) for action in actions)
