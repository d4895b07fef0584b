"""When a leaving worker is asked to leave. The test plays the switchboard and the worker."""

import asyncio

import pytest

from everycore.primary.farewell import FINISH_SHARE, FIRST_REQUEST, LOOK, Farewell
from tests.kit import pass_time

WORKER = 7


class Played:
    """Both of them: are connections still to be given to the worker, and may it close some unread."""

    def __init__(self, *, is_given: bool = False, cuts_off: bool = False) -> None:
        self.is_given = is_given
        self.cuts_off = cuts_off
        self.asked_at: list[float] = []
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self.farewell = Farewell(self._loop, self, WORKER, self._ask, lambda: self.cuts_off)  # type: ignore[arg-type]

    def _ask(self) -> None:
        self.asked_at.append(self._loop.time() - self._begun)

    def is_finishing(self, worker: int) -> bool:
        return self.is_given

    def finish(self, worker: int) -> None:
        """Do nothing."""

    def rest(self, worker: int, *, finishes: bool) -> None:
        self.is_given = False


async def test_a_worker_without_connections_is_asked_at_once():
    played = Played()
    played.farewell.begin(30.0)
    assert played.asked_at == [0.0]
    assert not played.farewell.lasts


async def test_a_new_connection_has_a_moment_for_a_first_request():
    played = Played(cuts_off=True)
    played.farewell.begin(30.0)
    await pass_time(FIRST_REQUEST - 2 * LOOK)
    assert (played.asked_at, played.farewell.lasts) == ([], True)
    await pass_time(4 * LOOK)
    assert played.asked_at == [pytest.approx(FIRST_REQUEST, abs=LOOK)]
    assert not played.farewell.lasts


async def test_the_moment_is_over_when_no_connection_is_left():
    played = Played(cuts_off=True)
    played.farewell.begin(30.0)
    played.cuts_off = False
    await pass_time(2 * LOOK)
    assert played.asked_at == [pytest.approx(LOOK)]


async def test_it_begins_when_the_last_has_come():
    played = Played(is_given=True, cuts_off=True)
    played.farewell.begin(30.0)
    await pass_time(1.0)
    played.is_given = False
    played.farewell.on_finished()
    played.farewell.on_finished()  # of another listener
    await pass_time(1.0)
    assert played.asked_at == [pytest.approx(1.0 + FIRST_REQUEST, abs=LOOK)]


async def test_both_are_within_a_part_of_the_grace():
    played = Played(is_given=True, cuts_off=True)
    played.farewell.begin(0.4)
    await pass_time(1.0)
    assert played.asked_at == [pytest.approx(0.4 * FINISH_SHARE)]


async def test_asked_again_with_less_grace_the_moment_is_shorter():
    played = Played(cuts_off=True)
    played.farewell.begin(30.0)
    await pass_time(2 * LOOK)
    played.farewell.begin(0.0)
    await pass_time(1.0)
    assert played.asked_at == [pytest.approx(2 * LOOK, abs=LOOK)]


async def test_a_worker_that_leaves_by_itself_is_not_asked():
    played = Played(cuts_off=True)
    played.farewell.begin(30.0)
    assert played.farewell.cancel()
    await pass_time(1.0)
    assert played.asked_at == []


async def test_a_worker_that_is_gone_is_not_asked():
    played = Played(cuts_off=True)
    played.farewell.begin(30.0)
    played.farewell.leave_rotation(finishes=False)
    await pass_time(1.0)
    assert played.asked_at == []
