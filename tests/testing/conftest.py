"""Fixtures of the tests of the fakes."""

import pytest

from everycore.testing import VirtualTimeLoop


@pytest.fixture(autouse=True)
def loop_factory():
    return VirtualTimeLoop
