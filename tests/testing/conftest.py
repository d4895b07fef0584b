"""What tests of the fakes share."""

import pytest

from everycore.testing import VirtualTimeLoop


@pytest.fixture(autouse=True)
def loop_factory():
    return VirtualTimeLoop
