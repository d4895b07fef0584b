"""When a slot has failed or works again, and when a pool gives up. No process, no clock."""

from typing import Any

import pytest

from everycore.core.orders import (
    FailPool,
    Finish,
    Replace,
    ScaleTo,
    SlotFailed,
    SlotWorks,
    WorkerExited,
)
from everycore.core.slots import SlotFailure
from tests.kit.numbered_pools import CRASH, Pool


@pytest.fixture
def running() -> Pool:
    """Two ready workers, 1 and 2 in the slots 0 and 1; five ends make a slot failed."""
    pool = Pool(give_up=5)
    pool.tell(ScaleTo(2))
    pool.ready(1, 2)
    return pool


def crash(pool: Pool, slot: int, times: int, *, ready: bool = True) -> list[Any]:
    """End the worker of `slot` `times` times, waiting for the next one each time. Returns all orders."""
    actions = []
    for _ in range(times):
        (worker,) = [number for number, at in pool.staying.items() if at == slot]
        if ready and worker not in pool.is_ready:
            pool.ready(worker)
        actions += pool.exit(worker)
        while pool.timer is not None and slot not in pool.live.values():
            actions += pool.let_time_pass((pool.timer or pool.now) - pool.now)
    return actions


def of(kind: type, actions: list[Any]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def test_the_fifth_end_within_a_minute_is_told_once_with_its_count(running):
    actions = crash(running, 0, 5)
    assert [end.delay for end in of(Replace, actions)] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    (failed,) = of(SlotFailed, actions)
    assert failed.ends == 5
    assert (failed.end.slot, failed.end.delay) == (0, 15.0)
    assert running.supervisor.failed_slots == (0,)
    later = crash(running, 0, 3)
    assert of(SlotFailed, later) == []
    assert [(end.delay, end.is_known) for end in of(Replace, later)] == [(15.0, True)] * 3


def test_ends_that_are_further_apart_are_none_too_many(running):
    for _ in range(10):
        assert of(SlotFailed, crash(running, 0, 1)) == []
        running.let_time_pass(16)
    assert running.supervisor.failed_slots == ()


def test_one_that_lives_is_well_again_and_that_is_told_with_the_count(running):
    crash(running, 0, 7)
    (worker,) = [number for number, slot in running.live.items() if slot == 0]
    running.ready(worker)
    assert of(SlotWorks, running.let_time_pass(29)) == []
    assert running.supervisor.failed_slots == (0,)
    assert of(SlotWorks, running.let_time_pass(2)) == [SlotWorks(0, worker, 7)]
    assert running.supervisor.failed_slots == ()
    assert [end.delay for end in of(Replace, crash(running, 0, 1))] == pytest.approx([0.1])


def test_one_that_ends_before_that_is_not(running):
    crash(running, 0, 5)
    running.ready(*[number for number, slot in running.live.items() if slot == 0])
    running.let_time_pass(20)
    crash(running, 0, 1)
    assert of(SlotWorks, running.let_time_pass(14)) == []
    assert running.supervisor.failed_slots == (0,)


def test_a_pool_of_which_one_slot_works_goes_on(running):
    crash(running, 0, 50)
    assert running.finished is None
    assert 1 in running.live.values()


def test_all_slots_have_failed(running):
    crash(running, 0, 6)
    actions = crash(running, 1, 5)
    (given_up,) = of(FailPool, actions)
    last = given_up.failure.worker
    assert given_up.failure == SlotFailure(last, CRASH, overdue=False, ends=5)
    for worker in list(running.live):
        running.exit(worker)
    assert running.finished == Finish(given_up.failure)


def test_a_serving_worker_keeps_a_pool_of_failed_slots_alive(running):
    crash(running, 0, 5)
    running.ready(*[number for number, slot in running.live.items() if slot == 0])
    actions = crash(running, 1, 5)
    assert of(FailPool, actions) == []
    assert running.supervisor.failed_slots == (0, 1)
    assert of(FailPool, crash(running, 0, 1))


def test_a_reload_begins_anew(running):
    crash(running, 0, 5)
    assert running.supervisor.failed_slots == (0,)
    running.reload()
    assert running.supervisor.failed_slots == ()


def test_where_the_code_is_worked_on_it_never_gives_up(running):
    running.supervisor.rollout.is_awaited = True
    crash(running, 0, 9)
    crash(running, 1, 9)
    assert running.finished is None


def test_a_slot_that_is_not_wanted_any_more_does_not_count_as_failed(running):
    crash(running, 1, 5)
    running.tell(ScaleTo(1))
    assert running.supervisor.failed_slots == ()


def test_without_a_limit_there_are_no_failed_slots():
    pool = Pool()
    pool.tell(ScaleTo(1))
    pool.ready(1)
    assert of(SlotFailed, crash(pool, 0, 50)) == []
    assert pool.finished is None


def test_the_end_of_a_worker_that_was_asked_to_leave_does_not_count(running):
    for _ in range(9):
        running.reload()
        for _ in range(20):
            for worker in list(running.live):
                if worker in running.dismissed:
                    running.exit(worker)
                elif worker not in running.is_ready:
                    running.ready(worker)
    assert running.supervisor.failed_slots == ()
    assert running.supervisor.handle(WorkerExited(999, CRASH), running.now) == []


def live_and_crash(pool: Pool, seconds: float, times: int, **how: Any) -> list[Any]:
    """The only worker of a pool lives so long, is not ready, and ends; so do the next ones."""
    actions = []
    for _ in range(times):
        while not pool.live:
            assert pool.timer is not None
            pool.let_time_pass(pool.timer - pool.now)
        pool.let_time_pass(seconds)
        (worker,) = pool.live
        actions += pool.exit(worker, **how)
    return actions


@pytest.fixture
def program() -> Pool:
    """One worker of `everycore run`, which has been ready, and has ended."""
    pool = Pool(boot_timeout=None, may_finish=True, give_up=5)
    pool.tell(ScaleTo(1))
    pool.ready(1)
    pool.exit(1)
    return pool


@pytest.mark.parametrize("seconds", [20, 59])
def test_starts_in_vain_count_however_long_each_takes(program, seconds):
    assert of(FailPool, live_and_crash(program, seconds, 4)) == []
    assert len(of(FailPool, live_and_crash(program, seconds, 1))) == 1


def test_a_program_that_lives_longer_has_served_in_a_way_that_is_not_seen(program):
    assert of(FailPool, live_and_crash(program, 60, 50)) == []


def test_one_whose_address_is_in_use_has_not_however_long_it_lives(program):
    assert of(FailPool, live_and_crash(program, 600, 4, was_refused=True)) == []
    assert len(of(FailPool, live_and_crash(program, 600, 1, was_refused=True))) == 1


def test_one_that_becomes_ready_ends_the_row_of_starts_in_vain(program):
    for _ in range(10):
        live_and_crash(program, 30, 3)
        program.let_time_pass(20)
        program.ready(*program.live)
        program.let_time_pass(60)
        assert of(FailPool, program.exit(*program.live)) == []
