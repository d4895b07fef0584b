"""How long connections waited, as a histogram, and that the lanes fill it."""

import pytest

from everycore.core.lanes import Lanes
from everycore.core.waits import BOUNDS, WaitHistogram


def test_each_wait_is_in_the_class_that_ends_at_it_or_above():
    waits = WaitHistogram()
    for seconds in (0.0, *BOUNDS, 11.0):
        waits.add(seconds)
    now = waits.now()
    assert now.counts == (2, *[1] * (len(BOUNDS) - 1), 1)
    assert now.total == pytest.approx(sum(BOUNDS) + 11.0)


def test_lanes_tell_each_pick_up():
    lanes = Lanes()
    lanes.waits = WaitHistogram()
    lane = lanes.join(1)
    lanes.hand(lane, 10.0)
    lanes.hand(lane, 10.5)
    lanes.acknowledged(1, 2, 11.0)
    assert lanes.waits.now().total == pytest.approx(1.5)
    assert sum(lanes.waits.now().counts) == 2


def test_a_message_without_a_connection_is_not_lost():
    lanes = Lanes()
    lane = lanes.join(1)
    lanes.hand(lane, 10.0)
    lane.probe(10.0)
    lane.probe(10.5)
    assert lanes.forget(1) == 1
