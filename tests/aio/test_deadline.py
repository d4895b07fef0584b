"""A timer that is set again and again."""

import asyncio

import pytest

from everycore.aio.deadline import Deadline
from everycore.testing import VirtualTimeLoop
from tests.kit import pass_time


@pytest.fixture(autouse=True)
def loop_factory():
    """Every test here runs in virtual time."""
    return VirtualTimeLoop


class Alarm:
    """A deadline, and the times at which it came."""

    def __init__(self, *, least: float = 0.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.came: list[float] = []
        self.deadline = Deadline(self.loop, lambda: self.came.append(self.loop.time()), least=least)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([5.0], [5.0]),
        ([5.0, 5.0], [5.0]),
        ([5.0, 2.0], [2.0]),
        ([2.0, 5.0], [5.0]),
        ([5.0, None], []),
        ([None, 5.0], [5.0]),
        ([5.0, None, 5.0], [5.0]),
    ],
)
async def test_it_comes_once_at_the_time_that_was_set_last(times, expected):
    alarm = Alarm()
    for due in times:
        alarm.deadline.set(due)
    await pass_time(10.0)
    assert alarm.came == expected


async def test_it_can_be_set_again_to_the_time_at_which_it_came():
    alarm = Alarm()
    alarm.deadline.set(5.0)
    await pass_time(6.0)
    alarm.deadline.set(5.0)
    await pass_time(1.0)
    assert alarm.came == [5.0, 6.0]


async def test_it_can_be_set_from_now_on():
    alarm = Alarm()
    await pass_time(2.0)
    alarm.deadline.set_in(3.0)
    await pass_time(10.0)
    assert alarm.came == [5.0]


@pytest.mark.parametrize(("due", "expected"), [(2.0, 2.5), (1.0, 2.5), (2.4, 2.5), (2.6, 2.6)])
async def test_it_leaves_the_loop_a_least_pause(due, expected):
    alarm = Alarm(least=0.5)
    await pass_time(2.0)
    alarm.deadline.set(due)
    await pass_time(10.0)
    assert alarm.came == [expected]


async def test_it_tells_when_it_is_due():
    alarm = Alarm(least=0.5)
    told = [alarm.deadline.due]
    for due in (0.1, None, 3.0):  # as it was set, whatever the least pause makes of it
        alarm.deadline.set(due)
        told.append(alarm.deadline.due)
    await pass_time(10.0)
    assert [*told, alarm.deadline.due] == [None, 0.1, None, 3.0, None]
