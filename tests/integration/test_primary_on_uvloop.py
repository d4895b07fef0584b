"""A `Cluster` on uvloop: tests of many paths of the primary, repeated.

A loop of libuv keeps descriptors by number, has timers of whole milliseconds, and handles that do not tell
when they are due. Most of this is left to continuous integration.
"""

import asyncio

import pytest

from tests.integration import (
    test_death,
    test_faults,
    test_faults_floods,
    test_leaving,
    test_lifecycle,
    test_messages,
    test_stdio,
)

uvloop = pytest.importorskip("uvloop")
uvloop.new_event_loop().close()  # libuv keeps a pipe of its own from the first loop on

pytestmark = [pytest.mark.slow, pytest.mark.limit(30), pytest.mark.usefixtures("loop_factory")]


@pytest.fixture
def loop_factory():
    return uvloop.new_event_loop


async def test_it_is_one():
    assert type(asyncio.get_running_loop()) is uvloop.Loop


class TestLife(test_lifecycle.TestLife):
    pass


@pytest.mark.ci_only
class TestDisconnect(test_leaving.TestDisconnect):
    pass


@pytest.mark.ci_only
class TestTheBlock(test_leaving.TestTheBlock):
    pass


@pytest.mark.ci_only
class TestPipes(test_stdio.TestPipe):
    pass


@pytest.mark.ci_only
class TestBackPressure(test_messages.TestBackPressure):
    pass


@pytest.mark.ci_only
class TestRequests(test_messages.TestRequests):
    pass


class TestDeath(test_death.TestOfAWorker):
    pass


@pytest.mark.ci_only
class TestRecall(test_faults_floods.TestRecall):
    pass


@pytest.mark.ci_only
class TestSwallowedWakeUps(test_faults.TestAWorkerThatSwallowsAWakeUp):
    pass
