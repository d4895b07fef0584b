"""Fixtures of the tests of the primary: virtual time, and fake workers."""

from collections.abc import Iterator

import pytest

from everycore.testing import FakeWorkers, VirtualTimeLoop


@pytest.fixture(autouse=True)
def loop_factory() -> type[VirtualTimeLoop]:
    """Every test of the primary runs in virtual time, unless its file says otherwise."""
    return VirtualTimeLoop


@pytest.fixture
def workers() -> Iterator[FakeWorkers]:
    """Workers that do nothing by themselves, so that they never end."""
    with FakeWorkers(life=None) as workers:
        yield workers


@pytest.fixture
def polite() -> Iterator[FakeWorkers]:
    """Workers that are ready at once, and leave when they are asked."""
    with FakeWorkers() as workers:
        yield workers
