"""How busy a loop has been lately."""

import pytest

from everycore.core.loads import SAMPLES, LoopShares


def test_a_share_of_the_last_seconds():
    shares = LoopShares()
    assert shares.share(1, 5.0, 0.0) is None
    for second in range(SAMPLES + 10):  # idle, and then busy
        shares.look(1, max(second - 10, 0) * 0.5, float(second))
    assert shares.share(1, 0.5 * 6, 16.0) == pytest.approx(3.0 / 6)
    shares.forget(1)
    assert shares.share(1, 5.0, 16.0) is None


def test_it_is_never_more_than_all():
    shares = LoopShares()
    shares.look(1, 0.0, 0.0)
    assert shares.share(1, 0.2, 0.5) is None  # too soon to tell
    assert shares.share(1, 3.0, 2.0) == 1.0
    assert shares.share(1, -1.0, 2.0) == 0.0  # another worker has written there


def test_looks_that_come_fast_are_one():
    shares = LoopShares()
    for tenth in range(100):
        shares.look(1, tenth / 20, tenth / 10)
    assert shares.share(1, 5.0, 10.0) == pytest.approx(0.5)
