"""How long to leave the next connection to others: longer if that helps, hardly if it does not."""

import pytest

from everycore.core.patience import LEAST, MOST, Patience

STEP = LEAST / 4


@pytest.fixture
def patience():
    return Patience()


def stay(patience, now=0.0, *, taken_after=None, waits=True):
    """The seconds of a stay; another worker takes the waiting connection after `taken_after` seconds."""
    patience.begin(now, waits=waits)
    looked = 0
    while patience.lasts(now + looked * STEP, waits=taken_after is None or looked * STEP < taken_after):
        looked += 1
    return looked * STEP


def test_at_first_it_is_short(patience):
    assert stay(patience) == LEAST


def test_that_another_worker_took_them_makes_it_long(patience):
    assert stay(patience, taken_after=LEAST / 2) <= LEAST
    assert stay(patience) == MOST


def test_it_ends_when_no_connection_waits_any_more(patience):
    stay(patience, taken_after=LEAST / 2)
    assert stay(patience, taken_after=MOST / 2) == MOST / 2


def test_in_vain_it_is_halved_down_to_the_least(patience):
    stay(patience, taken_after=LEAST / 2)
    spans = [stay(patience) for _ in range(8)]
    assert spans[:3] == [MOST, MOST / 2, MOST / 4]
    assert spans[-2:] == [LEAST, LEAST]


def test_a_stay_without_a_connection_says_nothing(patience):
    assert stay(patience, taken_after=0.0, waits=False) == 0.0
    assert stay(patience) == LEAST


def test_a_connection_that_came_meanwhile_and_was_taken_counts(patience):
    patience.begin(0.0, waits=False)
    assert patience.lasts(STEP, waits=True)
    assert not patience.lasts(2 * STEP, waits=False)
    assert stay(patience) == MOST
