"""Fixtures of the tests of listeners: their time stands still."""

import pytest

from tests.kit.stage import ClockLoop


@pytest.fixture(autouse=True)
def loop_factory() -> type[ClockLoop]:
    """Every test of a listener runs on the stage, unless its file says otherwise."""
    return ClockLoop
