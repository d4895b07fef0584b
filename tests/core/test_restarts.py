"""The waits between restarts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core.restarts import Backoff


def test_doubles_up_to_the_limit():
    waits = [Backoff().delay(failures, 0.5) for failures in range(1, 11)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15.0, 15.0])


@given(failures=st.integers(1, 10**9), chance=st.floats(0, 1))
def test_jitter_is_a_fifth_either_way(failures, chance):
    middle = Backoff().delay(failures, 0.5)
    assert 0.8 * middle <= Backoff().delay(failures, chance) * 1.000001
    assert Backoff().delay(failures, chance) <= 1.2 * middle * 1.000001


def test_jitter_reaches_both_ends():
    assert Backoff().delay(1, 0.0) == pytest.approx(0.08)
    assert Backoff().delay(1, 1.0) == pytest.approx(0.12)


def test_half_a_minute_of_health_starts_anew():
    backoff = Backoff()
    assert backoff.failures(7, 29.9) == 8
    assert backoff.failures(7, 30.0) == 1
    assert backoff.failures(0, 0.0) == 1
