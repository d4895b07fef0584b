"""Which workers are forked, dismissed and killed; when the pool gives up. No process, no clock."""

import pytest

from everycore.core.orders import (
    Dismiss,
    FailPool,
    Finish,
    Fork,
    Kill,
    Replace,
    ScaleTo,
    SetTimer,
    Stop,
    WorkerExited,
    WorkerReady,
)
from everycore.core.renewal import LAST_SECONDS
from everycore.core.slots import SlotFailure
from everycore.model import ExitStatus
from tests.kit.numbered_pools import BOOT_TIMEOUT, CRASH, DONE, Pool


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def running(pool) -> Pool:
    """Three ready workers, 1 to 3 in the slots 0 to 2."""
    pool.tell(ScaleTo(3))
    pool.ready(1, 2, 3)
    return pool


def test_start_forks_slots_in_order(pool):
    actions = pool.tell(ScaleTo(3))
    assert actions == [Fork(0), Fork(1), Fork(2), SetTimer(BOOT_TIMEOUT)]


def test_nothing_is_due_once_all_are_ready(running):
    assert running.timer is None


# A worker ends


@pytest.mark.parametrize("status", [CRASH, DONE, ExitStatus(code=1), ExitStatus(error=OSError(11, "no"))])
def test_replaced_in_its_slot_after_a_wait(running, status):
    actions = running.exit(2, status)
    assert Replace(2, 1, status, overdue=False, delay=0.1) in actions
    assert running.live == {1: 0, 3: 2}
    running.let_time_pass(0.1)
    assert running.live == {1: 0, 3: 2, 4: 1}


def test_waits_double_per_slot(running):
    waits = []
    for worker in (1, 4, 5, 6):
        waits += [action.delay for action in running.exit(worker) if isinstance(action, Replace)]
        running.let_time_pass(20)
        running.ready(worker + (3 if worker == 1 else 1))
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8])
    [other] = [action.delay for action in running.exit(2) if isinstance(action, Replace)]
    assert other == pytest.approx(0.1)


def test_wait_is_short_again_after_half_a_minute_of_health(running):
    running.exit(1)
    running.let_time_pass(0.1)
    running.ready(4)
    running.let_time_pass(30)
    [wait] = [action.delay for action in running.exit(4) if isinstance(action, Replace)]
    assert wait == pytest.approx(0.1)


def test_a_program_has_started_once_it_has_lived_as_long_as_a_healthy_one():
    pool = Pool(boot_timeout=None, may_finish=True)
    pool.tell(ScaleTo(2))
    pool.let_time_pass(30)
    [wait] = [action.delay for action in pool.exit(1) if isinstance(action, Replace)]
    assert wait == pytest.approx(0.1)
    pool.let_time_pass(0.1)
    assert pool.live == {2: 1, 3: 0}


def test_a_program_that_ends_soon_could_not_start():
    pool = Pool(boot_timeout=None, may_finish=True)
    pool.tell(ScaleTo(2))
    pool.let_time_pass(29)
    assert any(isinstance(action, FailPool) for action in pool.exit(1))


def test_a_program_that_takes_long_to_end_for_an_address_in_use_could_not_start():
    """On a busy machine its imports alone may last that long. It would be started again for ever."""
    pool = Pool(boot_timeout=None, may_finish=True)
    pool.tell(ScaleTo(2))
    pool.let_time_pass(40)
    assert any(isinstance(action, FailPool) for action in pool.exit(1, was_refused=True))


def test_booting_is_not_health(running):
    running.exit(1)
    running.let_time_pass(0.1)
    running.let_time_pass(50)
    [wait] = [action.delay for action in running.exit(4) if isinstance(action, Replace)]
    assert wait == pytest.approx(0.2)


def test_an_unknown_worker_is_ignored(running):
    assert running.supervisor.handle(WorkerExited(99, CRASH), 0.0) == []
    assert running.supervisor.handle(WorkerReady(99), 0.0) == []


# The application cannot boot


def test_first_failure_before_anybody_was_ready_ends_the_pool(pool):
    pool.tell(ScaleTo(3))
    failure = SlotFailure(2, ExitStatus(code=3), overdue=False)
    actions = pool.exit(2, ExitStatus(code=3))
    assert actions == [FailPool(failure), Dismiss(1), Dismiss(3), SetTimer(LAST_SECONDS)]
    pool.exit(1, ExitStatus(code=4))
    assert pool.finished is None
    pool.exit(3)
    assert pool.finished == Finish(failure)
    assert pool.forks == 3


def test_clean_end_before_anybody_was_ready_is_a_failure_too(pool):
    pool.tell(ScaleTo(1))
    pool.exit(1, DONE)
    assert pool.finished == Finish(SlotFailure(1, DONE, overdue=False))


def test_workers_that_still_boot_are_killed_soon_after(pool):
    pool.tell(ScaleTo(2))
    pool.exit(1)
    assert Kill(2) in pool.let_time_pass(LAST_SECONDS)


def test_failure_to_boot_once_a_worker_was_ready_is_retried(pool):
    pool.tell(ScaleTo(2))
    pool.ready(1)
    assert Replace(2, 1, CRASH, overdue=False, delay=0.1) in pool.exit(2)
    pool.let_time_pass(0.1)
    assert set(pool.live) == {1, 3}


def test_boot_time_out_kills_and_counts_as_failure(pool):
    pool.tell(ScaleTo(1))
    assert pool.let_time_pass(BOOT_TIMEOUT - 0.1) == []
    assert pool.let_time_pass(0.1) == [Kill(1), SetTimer(None)]
    pool.exit(1)
    assert pool.finished == Finish(SlotFailure(1, CRASH, overdue=True))


def test_boot_time_out_later_is_retried(running):
    running.exit(1)
    running.let_time_pass(0.1)
    assert Kill(4) in running.let_time_pass(BOOT_TIMEOUT)
    assert Replace(4, 0, CRASH, overdue=True, delay=0.2) in running.exit(4)


# Scaling


def test_scale_up_and_down(running):
    running.tell(ScaleTo(5))
    assert running.live == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4}
    assert running.tell(ScaleTo(2))[:3] == [Dismiss(3), Dismiss(4), Dismiss(5)]
    for worker in (3, 4, 5):
        running.exit(worker, DONE)
    assert running.live == {1: 0, 2: 1}
    assert running.timer is None


def test_scale_down_forgets_a_restart(running):
    running.exit(3)
    running.tell(ScaleTo(2))
    running.let_time_pass(60)
    assert running.live == {1: 0, 2: 1}


def test_slot_wanted_again_waits_for_the_old_worker(running):
    running.tell(ScaleTo(2))
    running.tell(ScaleTo(3))
    assert running.live == {1: 0, 2: 1, 3: 2}
    running.exit(3, DONE)
    assert running.live == {1: 0, 2: 1, 4: 2}


def test_asking_twice_dismisses_once(running):
    assert running.tell(ScaleTo(2)) == [Dismiss(3)]
    assert running.tell(ScaleTo(2)) == []
    assert running.tell(ScaleTo(1)) == [Dismiss(2)]


# Stopping


def test_stop_dismisses_all_and_finishes_with_the_last(running):
    assert running.tell(Stop()) == [Dismiss(1), Dismiss(2), Dismiss(3)]
    running.exit(1)
    running.exit(2)
    assert running.finished is None
    running.exit(3)
    assert running.finished == Finish(None)
    assert running.forks == 3


def test_stop_twice_is_stop_once(running):
    running.tell(Stop())
    assert running.tell(Stop()) == []


def test_stop_without_workers_finishes_at_once(pool):
    assert pool.tell(Stop()) == [Finish(None)]


def test_stop_forgets_restarts(running):
    for worker in (1, 2, 3):
        running.exit(worker)
    assert running.tell(Stop()) == [SetTimer(None), Finish(None)]


def test_stop_while_booting_is_not_a_failure(pool):
    pool.tell(ScaleTo(1))
    pool.tell(Stop())
    pool.exit(1, DONE)
    assert pool.finished == Finish(None)


def test_no_scaling_after_stop(running):
    running.tell(Stop())
    assert running.tell(ScaleTo(9)) == []
