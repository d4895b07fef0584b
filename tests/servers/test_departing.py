"""How an engine ends, step by step: the test moves the time, and connections are names."""

import asyncio
import logging
from typing import Any

import pytest

from everycore.servers.departing import LOOK, LOOK_AT_CLOCK, MOST_AT_ONCE, Departing
from everycore.servers.draining import Draining
from tests.kit import VirtualClock, turn

GRACE, KEEP_ALIVE = 20.0, 5.0
SEND: Any = None
clock = VirtualClock()


class ClockLoop(asyncio.SelectorEventLoop):
    """Its timers follow `clock`, which only tests move."""

    def time(self) -> float:
        return clock.now


@pytest.fixture(autouse=True)
def loop_factory():
    return ClockLoop


class Connection:
    def __init__(self, state="idle"):
        #: "new" (nothing has come), "idle" (a request was answered), "busy".
        self.state = state
        self.unread = False
        self.end = None


class FakeInside:
    """As `foreign.uvicorn_internals.Inside`."""

    def __init__(self, *connections):
        self.all = list(connections)
        self.running = []
        #: Connections that cannot be closed.
        self.stuck = []
        self.listens = True
        self.kept_alive = []
        self.more = False

    def connections(self):
        return list(self.all)

    def tasks(self):
        return list(self.running)

    def is_idle(self, connection):
        return connection.state in ("new", "idle")

    def is_unused(self, connection):
        return connection.state == "new"

    def has_unread(self, connection):
        return connection.unread

    def scope_of(self, connection):
        return {"method": "GET", "path": f"/{id(connection)}"}

    def has_more(self, _send):
        return self.more

    def is_plain(self, _send):
        return True

    def take_away(self, connection):
        self.leave(connection, "taken")
        return connection

    def close(self, connection):
        if connection not in self.stuck:
            self.leave(connection, "closed")

    def abort(self, connection):
        self.leave(connection, "aborted")

    def leave(self, connection, how):
        connection.end = how
        self.all.remove(connection)

    def new(self):
        raise NotImplementedError

    def keep_alive(self, connection):
        self.kept_alive.append(connection)

    def stop_accepting(self):
        self.listens = False


class Stream:
    def end_soon(self):
        pass


class FakeExit:
    is_alone = False
    open = 0

    def __init__(self):
        self.deadline = clock.now + GRACE
        self.spares_idle = True
        self.may_hand_on = False
        self.is_undecided = False
        self.handed_on = []
        self.began: Any = None

    async def asked(self):
        pass

    def hand_on(self, fd):
        self.handed_on.append(fd)

    def take_over(self, _new, began):
        self.began = began


class Scene:
    def __init__(self, *connections, inside=True, spread=None):
        self.exit = FakeExit()
        self.inside = FakeInside(*connections)
        #: The range, in seconds, from which the moment of an end was drawn.
        self.draws: list[float] = []
        self.draining = Draining(draw=self.draw)
        self.departing = Departing(
            self.exit,
            self.draining,
            self.inside if inside else None,  # type: ignore[arg-type]
            keep_alive=KEEP_ALIVE,
            spread=spread,
        )
        self.task: asyncio.Task[None] = asyncio.ensure_future(turn())

    def draw(self, seconds):
        self.draws.append(seconds)
        return 0.0

    async def leave(self):
        self.task = asyncio.ensure_future(self.departing.run())
        await turn(2)
        await self.passes(LOOK)

    async def passes(self, seconds):
        """Let time pass, in steps as small as those of the checks, and run what is due."""
        end = clock.now + seconds
        while clock.now < end:
            clock.advance_to(min(end, clock.now + LOOK + 1e-6))
            await turn(4)

    @property
    def is_over(self):
        return self.task.done()

    async def over(self):
        """Let everything end."""
        self.inside.all.clear()
        self.inside.running.clear()
        await self.passes(2 * LOOK)
        assert self.is_over
        await self.task


async def test_nothing_open_is_over_at_once():
    scene = Scene()
    await scene.leave()
    assert scene.is_over


async def test_answers_close_their_connections_from_now_on():
    scene = Scene(Connection("busy"))
    await scene.leave()
    assert scene.draining.is_on
    assert not scene.draining.keeps(SEND)
    scene.inside.more = True  # pipelined: the next request is here already
    assert scene.draining.keeps(SEND)
    await scene.over()


class TestBeforeItIsToldWhetherAnotherStays:
    async def test_an_answer_ends_its_connection_only_once_it_is_told_that_no_worker_takes_it(self):
        scene = Scene(Connection("busy"))
        scene.exit.is_undecided = True
        await scene.leave()
        assert scene.draining.keeps(SEND)
        scene.exit.is_undecided = False
        assert not scene.draining.keeps(SEND)
        await scene.over()

    async def test_its_idle_connection_is_handed_on_once_it_is_told_that_a_worker_takes_it(self):
        scene = Scene(idle := Connection("idle"))
        scene.exit.is_undecided = True
        await scene.leave()
        assert idle.end is None
        scene.exit.is_undecided, scene.exit.may_hand_on = False, True
        await scene.passes(2 * LOOK)
        assert idle.end == "taken"
        await scene.over()

    async def test_a_primary_that_says_nothing_is_waited_for_a_moment(self):
        scene = Scene(Connection("busy"))
        scene.exit.is_undecided = True
        await scene.leave()
        await scene.passes(1.0)
        assert not scene.draining.keeps(SEND)
        await scene.over()

    async def test_where_a_human_waits_it_ends(self):
        scene = Scene(Connection("busy"))
        scene.exit.is_undecided, scene.exit.spares_idle = True, False
        await scene.leave()
        assert not scene.draining.keeps(SEND)
        await scene.over()


class TestWhereAllLeave:
    async def test_an_idle_connection_is_the_engines_to_end(self):
        scene = Scene(idle := Connection("idle"))
        await scene.leave()
        await scene.passes(KEEP_ALIVE + 1)
        assert idle.end is None
        await scene.over()

    async def test_a_new_one_has_the_keep_alive_time_for_its_first_byte(self):
        scene = Scene(new := Connection("new"), busy := Connection("busy"))
        await scene.leave()
        await scene.passes(KEEP_ALIVE - 1)
        assert new.end is None
        await scene.passes(1 + LOOK_AT_CLOCK)
        assert new.end == "closed"
        assert busy.end is None
        await scene.over()

    async def test_but_not_one_whose_first_byte_is_there(self):
        scene = Scene(new := Connection("new"))
        new.unread = True
        await scene.leave()
        await scene.passes(KEEP_ALIVE + 1)
        assert new.end is None
        await scene.over()

    async def test_where_a_human_waits_idle_ones_are_closed_and_new_ones_soon(self):
        scene = Scene(idle := Connection("idle"), new := Connection("new"), busy := Connection("busy"))
        scene.exit.spares_idle = False
        await scene.leave()
        assert (idle.end, new.end, busy.end) == ("closed", None, None)
        await scene.passes(0.5)
        assert (new.end, busy.end) == ("closed", None)
        busy.state = "idle"
        await scene.passes(LOOK_AT_CLOCK)
        assert busy.end == "closed"
        assert scene.is_over


class TestWhereAnotherStays:
    async def test_idle_and_new_ones_are_handed_on(self):
        scene = Scene(idle := Connection("idle"), new := Connection("new"), busy := Connection("busy"))
        scene.exit.may_hand_on = True
        await scene.leave()
        assert scene.exit.handed_on == [idle, new]
        assert scene.draining.keeps(SEND)  # the busy one will be, once it was answered
        busy.state = "idle"
        scene.draining.answered()
        await turn()
        assert scene.exit.handed_on == [idle, new, busy]
        await scene.over()

    async def test_not_too_many_at_once(self):
        scene = Scene(*(Connection() for _ in range(MOST_AT_ONCE + 1)))
        scene.exit.may_hand_on = True
        await scene.leave()
        assert len(scene.exit.handed_on) == MOST_AT_ONCE
        await scene.passes(LOOK)
        assert len(scene.exit.handed_on) == MOST_AT_ONCE + 1
        await scene.over()

    async def test_one_that_comes_back_stays(self):
        scene = Scene(busy := Connection("busy"))
        scene.departing.on_serving()
        scene.exit.may_hand_on = True
        await scene.leave()
        back = Connection("new")
        scene.inside.all.append(back)
        scene.exit.began(back)
        assert scene.inside.kept_alive == [back]
        await scene.passes(LOOK_AT_CLOCK)
        assert scene.exit.handed_on == []
        assert (back.end, busy.end) == (None, None)
        await scene.over()

    async def test_a_client_that_never_pauses_is_told_to_close_after_half_of_the_grace(self):
        scene = Scene(Connection("busy"))
        scene.exit.may_hand_on = True
        await scene.leave()
        assert scene.draining.keeps(SEND)
        await scene.passes(GRACE / 2)
        assert not scene.draining.keeps(SEND)
        await scene.over()

    async def test_what_was_taken_over_before_is_handed_on_as_any_other(self):
        scene = Scene(Connection("busy"))
        scene.departing.on_serving()
        taken = Connection("new")
        scene.inside.all.append(taken)
        scene.exit.began(taken)
        scene.exit.may_hand_on = True
        await scene.leave()
        assert scene.exit.handed_on == [taken]
        await scene.over()


class TestTheEndOfTheGrace:
    async def test_what_is_left_is_cut_off_and_named(self, caplog):
        scene = Scene(busy := Connection("busy"), stuck := Connection("busy"))
        scene.inside.stuck.append(stuck)
        scene.inside.running.append(task := asyncio.ensure_future(asyncio.Event().wait()))
        await scene.leave()
        with caplog.at_level(logging.ERROR, logger="everycore"):
            await scene.passes(GRACE)
        assert scene.is_over
        assert clock.now <= scene.exit.deadline + LOOK
        assert (busy.end, stuck.end) == ("closed", "aborted")
        assert task.cancelled()
        (record,) = caplog.records
        assert f"GET /{id(busy)}" in record.getMessage()
        assert f"GET /{id(stuck)}" in record.getMessage()

    async def test_idle_ones_end_without_a_word(self, caplog):
        scene = Scene(idle := Connection("idle"))
        await scene.leave()
        await scene.passes(GRACE)
        assert scene.is_over
        assert idle.end == "closed"
        assert not caplog.records

    async def test_background_work_has_the_grace(self):
        scene = Scene()
        scene.inside.running.append(task := asyncio.ensure_future(asyncio.Event().wait()))
        await scene.leave()
        await scene.passes(GRACE / 2)
        assert not scene.is_over
        assert not task.done()
        task.cancel()
        await scene.over()


async def test_alone_it_closes_its_listeners_itself():
    scene = Scene()
    scene.exit.is_alone = True
    await scene.leave()
    assert not scene.inside.listens


async def test_without_the_inside_it_waits_for_the_count_of_connections():
    scene = Scene(inside=False)
    scene.exit.open = 1
    scene.departing.on_serving()
    await scene.leave()
    assert scene.exit.began is None  # it takes nothing over
    await scene.passes(1.0)
    assert not scene.is_over
    scene.exit.open = 0
    await scene.passes(LOOK)
    assert scene.is_over


@pytest.mark.parametrize(
    ("spread", "spares_idle", "expected"),
    [(None, True, GRACE / 2), (1.0, True, 1.0), (1000.0, True, GRACE), (None, False, 0.0)],
)
async def test_over_how_long_ends_are_spread(spread, spares_idle, expected):
    scene = Scene(Connection("busy"), spread=spread)
    scene.draining.opened(Stream())
    scene.exit.spares_idle = spares_idle
    await scene.leave()
    (most,) = scene.draws
    assert most == pytest.approx(expected, abs=0.01)
    await scene.over()
