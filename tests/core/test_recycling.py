"""Which worker has reached a limit, and when it is replaced. No process, no clock."""

import pytest

from everycore.core.orders import Dismiss, Fork, Recycle, Recycling, RecyclingFailed, ScaleTo, Stop
from everycore.core.recycling import (
    MEMORY_SAMPLES,
    Aging,
    RecyclingLimits,
    Usage,
    recycling_limits,
)
from everycore.errors import ConfigurationError
from tests.kit.numbered_pools import DONE, Pool

# Limits


@pytest.mark.parametrize(
    ("limits", "usage", "reason"),
    [
        (RecyclingLimits(max_requests=20), Usage(requests=20), "20 requests (max_requests)"),
        (RecyclingLimits(max_connections=20), Usage(connections=21), "21 connections (max_connections)"),
        (RecyclingLimits(max_lifetime=60), Usage(lifetime=61.2), "61 s (max_lifetime)"),
    ],
)
def test_what_is_reached_is_said(limits, usage, reason):
    assert Aging(limits).reached(usage) == reason
    assert Aging(limits).reached(Usage(requests=19, connections=19, lifetime=59)) is None
    assert Aging(RecyclingLimits()).reached(usage) is None


def test_memory_counts_when_it_is_above_several_times_in_a_row():
    aging = Aging(RecyclingLimits(max_memory=2**20))
    above, below, unseen = Usage(memory=3 * 2**20), Usage(memory=2**20), Usage()
    seen = [above, above, below, above, unseen, above, unseen, unseen]
    assert [aging.reached(usage) for usage in seen] == [None] * len(seen)
    assert MEMORY_SAMPLES == 3
    assert aging.reached(above) == "3 MiB (max_memory)"


def test_each_worker_has_limits_of_its_own():
    limits = RecyclingLimits(1000, None, 1000, None, 1000)
    assert limits.of_worker(0.5) == limits
    assert limits.of_worker(0.0) == RecyclingLimits(900, None, 900, None, 900)
    assert limits.of_worker(1.0) == RecyclingLimits(1100, None, 1100, None, 1100)
    assert RecyclingLimits(max_lifetime=1000).of_worker(1.0).max_lifetime == pytest.approx(1100)


def test_a_jitter_that_is_given_only_adds():
    limits = RecyclingLimits(max_requests=20, max_requests_jitter=10)
    assert [limits.of_worker(chance).max_requests for chance in (0, 0.5, 1)] == [20, 25, 30]
    exact = RecyclingLimits(max_requests=20, max_requests_jitter=0)
    assert [exact.of_worker(chance).max_requests for chance in (0, 0.5, 1)] == [20, 20, 20]


def test_a_small_limit_is_at_least_one():
    assert RecyclingLimits(max_requests=1, max_memory=1).of_worker(0.0).max_requests == 1


def test_settings():
    assert recycling_limits() == RecyclingLimits()
    assert not recycling_limits(0, None, 0, 0.0, 0).is_on
    assert recycling_limits(max_lifetime=3).max_lifetime == 3.0
    for name in ("max_requests", "max_requests_jitter", "max_connections", "max_memory", "max_lifetime"):
        with pytest.raises(ConfigurationError, match=name):
            recycling_limits(**{name: -1})


# Turns


@pytest.fixture
def running() -> Pool:
    """Three ready workers, 1 to 3 in the slots 0 to 2."""
    pool = Pool()
    pool.tell(ScaleTo(3))
    pool.ready(1, 2, 3)
    return pool


def test_the_new_one_is_ready_before_the_old_one_leaves(running):
    begun, forked, *_ = running.tell(Recycle(2, "old"))
    assert (begun, forked) == (Recycling(2, 1, "old"), Fork(1))
    assert running.dismissed == set()
    assert Dismiss(2) in running.ready(4)


def test_one_at_a_time(running):
    """All of them may reach the limit at the same moment."""
    for worker in (1, 2, 3):
        running.tell(Recycle(worker, "old"))
    order = []
    for new in (4, 5, 6):
        assert len(running.live) - len(running.dismissed) == 4
        assert new in running.live
        order.append(running.live[new])
        running.ready(new)
    assert order == [0, 1, 2]
    assert running.dismissed == {1, 2, 3}
    assert running.forks == 6


def test_again_is_once(running):
    running.tell(Recycle(1, "old"))
    assert running.tell(Recycle(1, "older")) == []
    running.ready(4)
    assert running.tell(Recycle(1, "older")) == []
    running.exit(1, DONE)
    assert running.tell(Recycle(1, "older")) == []
    assert running.forks == 4


def test_with_a_surge_of_zero_the_old_one_leaves_first():
    pool = Pool(surge=0)
    pool.tell(ScaleTo(2))
    pool.ready(1, 2)
    assert pool.tell(Recycle(1, "old")) == [Recycling(1, 0, "old"), Dismiss(1)]
    assert pool.tell(Recycle(2, "old")) == []
    assert Fork(0) in pool.exit(1, DONE)
    assert pool.dismissed == set()
    assert Dismiss(2) in pool.ready(3)


def test_a_new_one_that_fails_leaves_the_old_one_and_is_tried_again(running):
    running.tell(Recycle(1, "old"))
    running.tell(Recycle(2, "old"))
    failed = [action for action in running.exit(4) if isinstance(action, RecyclingFailed)]
    assert [action.worker for action in failed] == [1]
    assert [action.delay for action in failed] == pytest.approx([0.1])
    assert running.dismissed == set()
    assert running.forks == 4
    running.let_time_pass(0.1)
    assert running.live == {1: 0, 2: 1, 3: 2, 5: 0}
    (again,) = [action for action in running.exit(5) if isinstance(action, RecyclingFailed)]
    assert again.delay == pytest.approx(0.2)
    running.let_time_pass(0.2)
    assert Dismiss(1) in running.ready(6)


def test_a_new_one_that_is_never_ready_is_killed_also_without_a_limit():
    pool = Pool(boot_timeout=None)
    pool.tell(ScaleTo(1))
    pool.ready(1)
    pool.tell(Recycle(1, "old"))
    assert pool.timer == 60.0


def test_an_old_one_that_dies_meanwhile_is_replaced_by_the_new_one(running):
    running.tell(Recycle(1, "old"))
    running.exit(1)
    running.ready(4)
    running.let_time_pass(60)
    assert running.live == {2: 1, 3: 2, 4: 0}
    assert running.dismissed == set()


def test_a_reload_goes_first_and_leaves_nothing_to_do(running):
    running.reload()
    running.tell(Recycle(3, "old"))
    for _ in range(20):
        for worker in list(running.live):
            if worker in running.dismissed:
                running.exit(worker, DONE)
            elif worker not in running.is_ready:
                running.ready(worker)
    assert running.forks == 6
    assert len(running.answers) == 1
    running.let_time_pass(100)
    assert sorted(running.live.values()) == [0, 1, 2]


def test_a_reload_that_fails_does_not_forget_it():
    running = Pool(surge=2)
    running.tell(ScaleTo(3))
    running.ready(1, 2, 3)
    running.tell(Recycle(1, "old"))
    running.reload()
    assert running.live[5] == 1
    running.exit(5)  # of the reload
    assert 4 in running.dismissed
    for _ in range(20):
        for worker in list(running.live):
            if worker in running.dismissed:
                running.exit(worker, DONE)
            elif worker not in running.is_ready:
                running.ready(worker)
        running.let_time_pass(1)
    assert 1 not in running.live
    assert sorted(running.live.values()) == [0, 1, 2]


def test_what_is_not_wanted_any_more_is_not_replaced(running):
    running.tell(Recycle(1, "old"))
    running.tell(Recycle(3, "old"))
    running.tell(ScaleTo(2))
    running.ready(4)
    running.let_time_pass(10)
    assert running.forks == 4


def test_after_the_stop_no_worker_is(running):
    running.tell(Stop())
    assert running.tell(Recycle(1, "old")) == []
    assert running.forks == 3


def test_a_stranger_is_ignored(running):
    assert running.tell(Recycle(99, "old")) == []
