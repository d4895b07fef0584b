"""A reload whose workers come from a mold: the new mold comes first."""

from everycore.core.orders import (
    Dismiss,
    Fork,
    Prepare,
    Reload,
    Reloaded,
    Reloading,
    ReloadStopped,
    Replace,
    ScaleTo,
    SetTimer,
    Stop,
)
from everycore.core.slots import SlotFailure
from tests.kit.numbered_pools import BOOT_TIMEOUT, CRASH, Pool

NO_MOLD = SlotFailure(0, CRASH, overdue=False)


def running(count: int = 2, **options) -> Pool:
    pool = Pool(prepares=True, **options)
    pool.tell(ScaleTo(count))
    pool.ready(*range(1, count + 1))
    return pool


def test_the_first_workers_need_no_reload():
    pool = Pool(prepares=True)

    assert pool.tell(ScaleTo(2)) == [Fork(0, 0), Fork(1, 0), SetTimer(BOOT_TIMEOUT)]


def test_no_worker_is_touched_before_the_new_mold_is_there():
    pool = running(surge=0)

    assert pool.tell(Reload(1)) == [Reloading(1), Prepare(1), SetTimer(BOOT_TIMEOUT)]
    assert pool.renewed() == [Dismiss(1), SetTimer(None)]


def test_what_ends_meanwhile_is_replaced_by_one_of_the_generation_before():
    pool = running()
    pool.tell(Reload(1))

    assert Fork(0, 0) in pool.exit(1)
    pool.ready(3)

    assert pool.renewed()[0] == Fork(0, 1)  # also that one is replaced


def test_without_a_mold_the_reload_has_failed_and_all_is_as_it_was():
    pool = running()
    pool.tell(Reload(1))

    assert pool.renewed(NO_MOLD) == [ReloadStopped(1, (1,), NO_MOLD), SetTimer(None)]
    assert pool.staying == {1: 0, 2: 1}
    assert pool.supervisor.rollout.failure == NO_MOLD


def test_the_next_reload_has_a_number_of_its_own():
    pool = running(1)
    pool.tell(Reload(1))
    pool.renewed(NO_MOLD)
    pool.tell(Reload(2))
    pool.renewed()

    assert Reloaded(2, (2,)) in pool.ready(2)


def test_a_mold_that_takes_too_long_is_not_waited_for():
    pool = running()
    pool.tell(Reload(1))
    overdue = SlotFailure(0, None, overdue=True)

    actions = pool.let_time_pass(BOOT_TIMEOUT)

    assert actions == [Prepare(1, is_cancelled=True), ReloadStopped(1, (1,), overdue), SetTimer(None)]


def test_a_reload_asked_for_meanwhile_has_a_mold_of_its_own():
    pool = running(1)
    pool.tell(Reload(1))

    assert pool.tell(Reload(2)) == []
    pool.renewed()
    assert Prepare(2) in pool.ready(2)


def test_where_the_code_is_being_worked_on_the_newest_is_prepared_at_once():
    pool = running(1)
    pool.supervisor.rollout.is_awaited = True
    pool.tell(Reload(1))

    assert pool.tell(Reload(2)) == [Prepare(1)]
    pool.renewed()
    assert Reloaded(1, (1, 2)) in pool.ready(2)


def test_a_stop_answers_workers_that_wait_for_a_mold():
    pool = running(1)
    pool.tell(Reload(1))

    assert pool.tell(Stop())[:2] == [Prepare(1, is_cancelled=True), ReloadStopped(1, (1,), None)]


def test_the_first_in_a_row_is_replaced_at_once():
    pool = running(1)

    assert pool.exit(1) == [Replace(1, 0, CRASH, overdue=False, delay=0.0), Fork(0), SetTimer(BOOT_TIMEOUT)]
    pool.ready(2)
    assert not any(isinstance(action, Fork) for action in pool.exit(2))
