"""Fixtures of the tests of channels."""

import pytest

from tests.kit.channel_pairs import LOOPS


@pytest.fixture(params=LOOPS, ids=lambda factory: factory.__module__)
def loop_factory(request):
    """A test with this fixture runs on each of the loops."""
    return request.param
