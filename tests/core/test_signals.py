"""The table of what signals do to a pool."""

import signal

import pytest

from everycore.core import signals
from everycore.core.signals import POOL, Act, Signal, Surroundings


def test_there_is_an_answer_for_every_signal_wherever_the_pool_is():
    assert set(POOL) == {(one, where) for one in Signal for where in Surroundings}


@pytest.mark.parametrize("one", Signal)
def test_names_are_those_of_signals(one):
    assert signal.Signals[one.value].name == f"SIG{one.name}"


def test_what_the_system_would_end_or_stop_us_by_is_heard():
    assert set(signals.heard(at_terminal=False)) == set(Signal) - {Signal.WINCH}


def test_the_kernels_own_signals_of_job_control_are_left_alone_at_a_terminal():
    assert set(signals.heard(at_terminal=True)) == set(Signal) - {Signal.WINCH, Signal.TTIN, Signal.TTOU}


@pytest.mark.parametrize("at_terminal", [True, False])
def test_what_is_heard_is_answered_wherever_the_pool_is_then(at_terminal):
    later = {
        signals.surroundings(had_terminal=at_terminal, has_terminal=has, is_ending=ending)
        for has in (True, False)
        for ending in (True, False)
    }
    answers = {POOL[one, where] for one in signals.heard(at_terminal=at_terminal) for where in later}
    assert answers.isdisjoint({Act.DEFAULT, Act.NOTHING})


@pytest.mark.parametrize(
    ("had", "has", "ending", "where"),
    [
        (False, False, False, Surroundings.DETACHED),
        (False, True, False, Surroundings.DETACHED),  # a daemon that was attached to a terminal again
        (True, True, False, Surroundings.TERMINAL),
        (True, False, False, Surroundings.HUNG_UP),
        (True, False, True, Surroundings.ENDING),
        (False, False, True, Surroundings.ENDING),
    ],
)
def test_where_a_pool_is(had, has, ending, where):
    assert signals.surroundings(had_terminal=had, has_terminal=has, is_ending=ending) is where


def test_a_pool_that_ends_stops_and_goes_on_as_any():
    for one in (Signal.TSTP, Signal.CONT, Signal.USR1):
        assert len({POOL[one, where] for where in Surroundings}) == 1
