"""When a worker is stuck and when it is not, and what is asked of it. No process, no clock."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everycore.core.stalls import (
    INTERVAL,
    LAST_STACKS,
    LAST_WORD,
    Abort,
    Condemn,
    Dump,
    KillStuck,
    Recovered,
    Seen,
    StallLimits,
    Stalls,
    stall_limits,
)
from everycore.errors import ConfigurationError


class View(msgspec.Struct):
    """A process played by the test."""

    cpu: float = 0.0
    waited: dict[int, float] = {}
    is_stopped: bool = False
    is_traced: bool = False


class Watch:
    """One worker, checked once a second or as often as the test says."""

    def __init__(self, dump: float | None = 10, kill: float | None = 60) -> None:
        self.stalls = Stalls(StallLimits(dump, kill))
        self.now = 100.0
        self.view: View | None = View(waited={1: 0.0})
        self.seen = Seen(beat=1)
        self.stalls.watch(1, self.now)
        self.look(0)

    def look(self, after: float = INTERVAL) -> list[Any]:
        self.now += after
        return self.stalls.look({1: self.seen}, lambda _: self.view, self.now)

    def beat(self, after: float = INTERVAL) -> list[Any]:
        self.seen = Seen(beat=self.seen.beat + 1)
        return self.look(after)

    def stuck_for(self, seconds: float) -> dict[str, float]:
        """Check for `seconds`. Returns when each action was ordered first, in seconds from now."""
        begun, found = self.now, dict[str, float]()
        while self.now - begun < seconds:
            for action in self.look():
                found.setdefault(type(action).__name__, round(self.now - begun))
        return found


def test_a_loop_that_turns_is_let_be():
    watch = Watch()
    assert [watch.beat() for _ in range(100)] == [[]] * 100


def test_a_loop_that_stands_still_is_dumped_aborted_and_killed():
    watch = Watch()
    watch.beat()
    found = watch.stuck_for(70)
    assert found == {
        "Dump": 10,
        "Condemn": 60,
        "Abort": 60 + LAST_STACKS,
        "KillStuck": 60 + LAST_STACKS + LAST_WORD,
    }


def test_each_is_asked_for_once():
    watch = Watch()
    actions = [action for _ in range(100) for action in watch.look()]
    assert [type(action) for action in actions] == [Dump, Condemn, Abort, KillStuck]


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        ((None, 5), {"Condemn", "Abort", "KillStuck"}),
        ((5, None), {"Dump"}),
        ((9, 3), {"Condemn", "Abort", "KillStuck"}),
    ],
)
def test_each_limit_stands_alone(limits, asked):
    assert set(Watch(*limits).stuck_for(30)) == asked


def test_without_limits_no_worker_is_watched():
    watch = Watch(None, None)
    assert watch.stalls.next_look is None
    assert watch.stuck_for(100) == {}


def test_what_goes_on_again_is_told_once_and_may_be_stuck_again():
    watch = Watch()
    watch.beat()
    watch.stuck_for(20)
    assert watch.beat() == [Recovered(1, 21.0)]
    assert watch.beat() == []
    assert watch.stuck_for(20) == {"Dump": 10}


def test_what_goes_on_in_the_last_moment_is_spared():
    watch = Watch()
    watch.beat()
    watch.stuck_for(60)
    assert [type(action) for action in watch.beat()] == [Recovered]
    assert watch.stuck_for(9) == {}


def test_an_aborted_worker_is_killed_even_if_it_goes_on():
    watch = Watch()
    watch.stuck_for(61)
    assert [action for _ in range(5) for action in watch.beat()] == [KillStuck(1)]


# Without a loop of everycore


def test_a_worker_with_nothing_to_pick_up_is_left_alone():
    watch = Watch()
    watch.seen = Seen()
    assert watch.stuck_for(100) == {}


def test_a_worker_that_picks_up_nothing_is_stuck_since_it_was_given_something():
    watch = Watch()
    watch.seen = Seen()
    watch.stuck_for(50)
    watch.seen = Seen(oldest=watch.now + 0.5)
    assert watch.stuck_for(12) == {"Dump": 11}


def test_a_worker_that_picks_up_one_after_the_other_is_left_alone_however_late():
    watch = Watch()
    for _ in range(30):
        watch.seen = Seen(oldest=watch.now)
        assert watch.stuck_for(5) == {}


def test_a_loop_that_has_ended_does_not_count_any_more():
    watch = Watch()
    watch.beat()
    watch.stuck_for(9)
    watch.seen = Seen()
    assert watch.stuck_for(100) == {}


# What could not make progress


def test_time_in_which_a_thread_waited_for_a_processor_does_not_count():
    watch = Watch(dump=10, kill=15)
    for second in range(600):
        assert watch.view is not None
        watch.view = View(waited={1: second * 0.999, 2: 0.0})
        assert watch.look() == []


def test_a_loop_that_computes_on_a_busy_machine_is_found_when_it_has_had_its_time():
    watch = Watch()
    found, begun = {}, watch.now
    for second in range(50):
        watch.view = View(cpu=second * 0.4, waited={1: second * 0.6})
        for action in watch.look():
            found[type(action)] = (watch.now - begun, action)
    at, dump = found.pop(Dump)
    assert found == {}
    assert at == pytest.approx(25, abs=2)
    assert dump.symptoms.cpu == pytest.approx(at * 0.4, abs=1)
    assert dump.symptoms.starved == pytest.approx(at * 0.6, abs=1)


def test_looks_that_come_late_do_not_count():
    """The primary itself was not scheduled, or was stopped, or the machine slept."""
    watch = Watch(dump=10, kill=15)
    watch.beat()
    for _ in range(9):
        assert watch.look(after=20) == []
    assert [type(action) for action in watch.look()] == [Dump]


def test_the_clock_starts_anew_when_it_is_continued():
    watch = Watch(dump=10, kill=60)
    watch.view = View(is_stopped=True)
    assert watch.stuck_for(50) == {"Dump": 10}
    watch.view = View()
    assert [type(action) for action in watch.look()] == [Recovered]
    assert watch.stuck_for(9) == {}


def test_a_stopped_worker_is_killed_without_an_abort_that_it_could_not_handle():
    watch = Watch(dump=None, kill=60)
    watch.view = View(is_stopped=True)
    watch.stuck_for(59)
    condemned, killed = watch.look()
    assert isinstance(condemned, Condemn)
    assert condemned.symptoms.is_stopped
    assert killed == KillStuck(1)


def test_under_a_tracer_the_clock_does_not_run():
    watch = Watch()
    watch.view = View(is_traced=True)
    assert watch.stuck_for(200) == {}
    watch.view = View()
    assert watch.stuck_for(9) == {}


def test_all_start_anew_when_all_were_stopped():
    watch = Watch()
    watch.stuck_for(9)
    watch.stalls.begin_anew(watch.now)
    assert watch.stuck_for(9) == {}


def test_without_proc_the_time_alone_counts():
    watch = Watch()
    watch.view = None
    assert watch.stuck_for(12) == {"Dump": 10}


def test_a_worker_that_gets_nothing_any_more_is_forgotten():
    watch = Watch()
    watch.stuck_for(9)
    assert watch.stalls.look({}, lambda _: None, watch.now + 1) == []
    assert watch.stalls.next_look is None


def test_limits_hold_for_those_that_come_later():
    watch = Watch(dump=10, kill=None)
    watch.stalls.limits = StallLimits(2, None)
    assert watch.stalls.next_look == INTERVAL
    watch.stalls.watch(2, watch.now)
    assert watch.stalls.next_look == 0.5


@pytest.mark.parametrize(("given", "limit"), [(None, None), (0, None), (0.0, None), (0.5, 0.5), (3, 3.0)])
def test_a_limit_of_none_and_of_zero_is_none(given, limit):
    assert stall_limits(given, None) == StallLimits(limit, None)
    assert stall_limits(None, given) == StallLimits(None, limit)


@pytest.mark.parametrize("given", [0.1, -1, float("nan"), float("inf"), "3", True, False])
def test_an_invalid_limit_is_refused(given):
    with pytest.raises(ConfigurationError, match="stall_kill: must be"):
        stall_limits(None, given)


# Whatever happens

STEPS = st.lists(
    st.tuples(
        st.floats(0.05, 5),  # seconds until the next check
        st.booleans(),  # the loop has turned
        st.floats(0, 1),  # part of that time in which a thread waited
        st.sampled_from(["runs", "runs", "runs", "stopped", "traced"]),
    ),
    min_size=1,
    max_size=60,
)


@given(STEPS)
@settings(max_examples=100)
def test_histories(steps):
    """No worker is asked or killed too early, twice, or in another order."""
    watch = Watch(dump=3, kill=6)
    waited = 0.0
    since = watch.now
    order: list[Any] = [Dump, Condemn, Abort, KillStuck]
    before: list[type] = []
    was_stopped = False
    for after, turns, part, state in steps:
        waited += after * part
        watch.view = View(waited={1: waited}, is_stopped=state == "stopped", is_traced=state == "traced")
        actions = watch.beat(after) if turns else watch.look(after)
        anew = turns or state == "traced" or (was_stopped and state != "stopped")
        if Abort not in before and KillStuck not in before and anew:
            since, before = watch.now, []
        was_stopped = state == "stopped" and not anew
        for action in actions:
            if isinstance(action, Recovered):
                assert anew
                continue
            assert type(action) not in before
            assert all(order.index(type(action)) > order.index(one) for one in before)
            if isinstance(action, Dump | Condemn):
                assert not anew
                assert watch.now - since >= (3 if isinstance(action, Dump) else 6)
            if isinstance(action, Abort):
                assert Condemn in before
            before.append(type(action))
