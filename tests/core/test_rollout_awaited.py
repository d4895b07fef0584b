"""In development, code that cannot start waits for the next reload. No process, no clock."""

import pytest

from everycore.core.orders import (
    Dismiss,
    Finish,
    Fork,
    Kill,
    Reload,
    Reloaded,
    Reloading,
    ReloadStopped,
    ScaleTo,
    SetTimer,
    Stop,
    Wait,
)
from everycore.core.renewal import YIELD_SECONDS
from everycore.core.slots import SlotFailure
from everycore.core.supervisor import HURRY_SECONDS
from tests.kit.numbered_pools import BOOT_TIMEOUT, CRASH, DONE, Pool


def awaited(count: int = 1, **options) -> Pool:
    pool = Pool(**options)
    pool.supervisor.rollout.is_awaited = True
    pool.tell(ScaleTo(count))
    return pool


def kinds(actions) -> list[type]:
    return [type(action) for action in actions]


@pytest.mark.parametrize("status", [CRASH, DONE], ids=["crash", "done"])
@pytest.mark.parametrize("may_finish", [False, True])
def test_a_first_start_that_fails_waits_and_the_next_reload_starts_again(status, may_finish):
    pool = awaited(may_finish=may_finish)
    assert Wait(SlotFailure(1, status, overdue=False)) in pool.exit(1, status)
    pool.let_time_pass(1000)
    assert pool.live == {}
    assert pool.tell(Reload(1))[:2] == [Reloading(1), Fork(0, 1)]
    assert Reloaded(1, (1,)) in pool.ready(2)


def test_a_stop_while_it_waits_ends_at_once():
    pool = awaited()
    pool.exit(1, CRASH)
    assert pool.tell(Stop()) == [Finish(None)]


def test_scaling_while_it_waits_starts_what_is_new_and_forgets_what_goes():
    pool = awaited(2)
    pool.exit(1, CRASH)
    pool.exit(2, CRASH)
    pool.tell(ScaleTo(1))
    pool.tell(Reload(1))
    assert pool.live == {3: 0}


def test_a_reload_that_fails_is_told_once_and_leaves_the_old_one():
    pool = awaited()
    pool.ready(1)
    pool.tell(Reload(1))
    assert kinds(pool.exit(2, CRASH)) == [ReloadStopped, SetTimer]
    assert pool.live == {1: 0}
    # It dies later: the present code is tried, once.
    pool.exit(1, CRASH)
    pool.let_time_pass(0.2)
    assert pool.live == {3: 0}
    assert Wait(SlotFailure(3, CRASH, overdue=False)) in pool.exit(3, CRASH)
    pool.let_time_pass(1000)
    assert pool.live == {}
    pool.tell(Reload(2))
    assert Reloaded(2, (2,)) in pool.ready(4)


def test_broken_again_is_a_reload_that_fails():
    pool = awaited()
    pool.exit(1, CRASH)
    pool.tell(Reload(1))
    assert kinds(pool.exit(2, CRASH)) == [ReloadStopped, SetTimer]
    assert pool.live == {}
    pool.tell(Reload(2))
    assert pool.live == {3: 0}


def test_a_worker_that_has_served_is_replaced_as_ever():
    pool = awaited()
    pool.ready(1)
    pool.exit(1, CRASH)
    pool.let_time_pass(0.2)
    assert pool.live == {2: 0}


def test_an_old_worker_that_is_not_ready_gives_way():
    pool = awaited()
    assert Dismiss(1) in pool.tell(Reload(1))
    assert pool.live == {1: 0}
    assert Kill(1) in pool.let_time_pass(YIELD_SECONDS)
    assert Fork(0, 1) in pool.exit(1, CRASH)
    assert Reloaded(1, (1,)) in pool.ready(2)


def test_what_an_earlier_reload_has_left_behind_gives_way():
    pool = awaited()
    pool.ready(1)
    pool.tell(Reload(1))
    assert Dismiss(1) in pool.ready(2)
    pool.let_time_pass(20)  # it has its grace
    assert pool.live == {1: 0, 2: 0}
    pool.tell(Reload(2))
    assert pool.live == {1: 0, 2: 0}  # no third one beside the two
    assert Kill(1) in pool.let_time_pass(YIELD_SECONDS)
    assert Fork(0, 2) in pool.exit(1, CRASH)


def test_newer_code_does_not_wait_for_a_worker_that_hangs():
    pool = awaited()
    pool.ready(1)
    pool.tell(Reload(1))
    pool.let_time_pass(10)
    assert pool.live == {1: 0, 2: 0}
    pool.tell(Reload(2))
    pool.tell(Reload(3))
    assert Kill(2) in pool.let_time_pass(HURRY_SECONDS)
    actions = pool.exit(2, CRASH)
    assert kinds(actions)[:2] == [ReloadStopped, Reloading]
    assert Reloaded(2, (2, 3)) in pool.ready(3)  # one reload for both


def test_without_it_a_reload_waits_for_all_of_them():
    pool = Pool()
    pool.tell(ScaleTo(1))
    pool.ready(1)
    pool.tell(Reload(1))
    pool.tell(Reload(2))
    assert pool.timer == BOOT_TIMEOUT
    pool.ready(2)
    assert pool.let_time_pass(20) == []
    assert pool.live == {1: 0, 2: 0}
