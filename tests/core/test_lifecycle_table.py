"""The table of `core.lifecycle`: it is complete, what holds in every step, and the result of a history."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core import lifecycle
from everycore.core.lifecycle import STAGES, TABLE, Hidden, Life, LifeAction, LifeInput, TimeLimit
from everycore.errors import ProtocolError
from everycore.model import State

NOW = 100.0
GRACE = 7.0

#: The shortest way into each state, involuntary if possible.
WAYS = {
    State.NONE: (),
    Hidden.LEAVING_EARLY: (LifeInput.DISCONNECT,),
    State.ONLINE: (LifeInput.JOINED,),
    State.LISTENING: (LifeInput.JOINED, LifeInput.LISTENED),
    State.DRAINING: (LifeInput.JOINED, LifeInput.DISCONNECT),
    State.DISCONNECTED: (LifeInput.JOINED, LifeInput.CHANNEL_LOST),
    State.DEAD: (LifeInput.JOINED, LifeInput.CHANNEL_LOST, LifeInput.EXITED),
}
CONNECTED = STAGES[:5]
EVERY_STEP = pytest.mark.parametrize(
    ("stage", "what"), list(itertools.product(STAGES, LifeInput)), ids=lambda value: str(value.name).lower()
)


def life_in(stage):
    life = Life()
    for what in WAYS[stage]:
        feed(life, what)
    assert life.stage is stage
    life.deadline = None
    return life


def feed(life, what, now=NOW, *, grace=GRACE):
    """As a driver does, perform every action before the next input. Returns (action, state at that time)."""
    done = []
    for action in life.handle(what, now, grace=grace):
        if action is LifeAction.DIE:
            life.die()
        done.append((action, life.state))
    return done


class TestTheTable:
    def test_every_stage_meets_every_input(self):
        assert set(TABLE) == set(itertools.product(STAGES, LifeInput))
        assert set(STAGES) == {*State, *Hidden}

    @EVERY_STEP
    def test_the_code_runs_by_it(self, stage, what):
        life, step = life_in(stage), TABLE[stage, what]
        if step.error:
            with pytest.raises(ProtocolError, match=step.error):
                life.handle(what, NOW, grace=GRACE)
            assert life.stage is stage
            return
        assert tuple(action for action, _ in feed(life, what)) == step.actions
        assert life.stage is step.after
        assert (
            life.deadline
            == {
                None: None,
                TimeLimit.OFF: None,
                TimeLimit.MARGIN: NOW + lifecycle.KILL_MARGIN,
                TimeLimit.SHUTDOWN: None,  # there was nothing to wait for, and there is not now
                TimeLimit.GRACE: NOW + GRACE + lifecycle.KILL_MARGIN,
            }[step.limit]
        )

    @pytest.mark.parametrize(
        ("shutdown", "later", "deadline"),
        [
            (10.0, 1.0, NOW + 1.0 + 10.0 + lifecycle.KILL_MARGIN),  # its own time, from then on
            (2.0, 1.0, NOW + GRACE + lifecycle.KILL_MARGIN),  # the rest of the grace is longer
            (0.0, GRACE + 0.5, NOW + GRACE + lifecycle.KILL_MARGIN),  # none of its own
        ],
    )
    def test_a_program_whose_work_is_done_has_time_for_its_own_shutdown(self, shutdown, later, deadline):
        life = Life()
        for what in (LifeInput.JOINED, LifeInput.DISCONNECT):
            feed(life, what)
        life.handle(LifeInput.CHANNEL_LOST, NOW + later, shutdown=shutdown)
        assert life.deadline == deadline

    def test_not_so_one_that_was_never_asked_to_leave(self):
        life = Life()
        feed(life, LifeInput.JOINED)
        life.handle(LifeInput.CHANNEL_LOST, NOW, shutdown=10.0)
        assert life.deadline == NOW + lifecycle.KILL_MARGIN

    @EVERY_STEP
    def test_no_step_goes_back(self, stage, what):
        step = TABLE[stage, what]
        way = [stage, *([step.via] if step.via else []), step.after]
        assert way == sorted(way, key=STAGES.index)

    @EVERY_STEP
    def test_what_enters_a_state_tells_of_it(self, stage, what):
        """`Disconnected` in the state of that name, `Exited` of the dead, each where it is entered."""
        step = TABLE[stage, what]
        told = {} if step.error else dict(feed(life_in(stage), what))
        passed = {step.via, step.after} - {stage}
        assert told.get(LifeAction.EMIT_ONLINE) is (
            None if stage not in CONNECTED[:2] or what is not LifeInput.JOINED else step.after
        )
        assert told.get(LifeAction.EMIT_DISCONNECTED) is (
            State.DISCONNECTED if State.DISCONNECTED in passed else None
        )
        assert told.get(LifeAction.EMIT_EXITED) is (State.DEAD if State.DEAD in passed else None)
        assert (LifeAction.DIE in told) == (step.via is not None)

    @pytest.mark.parametrize("what", [LifeInput.CHANNEL_LOST, LifeInput.EXITED], ids=str)
    @pytest.mark.parametrize("stage", CONNECTED, ids=str)
    def test_nothing_of_it_is_left_when_it_is_told_to_be_gone(self, stage, what):
        actions = TABLE[stage, what].actions
        before = actions[: actions.index(LifeAction.EMIT_DISCONNECTED)]
        assert {LifeAction.LEAVE_ROTATION, LifeAction.CLOSE_CHANNEL, LifeAction.RELEASE} <= set(before)

    @EVERY_STEP
    def test_only_one_that_was_there_is_asked_to_leave_and_only_once(self, stage, what):
        asks = LifeAction.ASK_TO_LEAVE in TABLE[stage, what].actions
        into_draining = TABLE[stage, what].after is State.DRAINING and stage is not State.DRAINING
        assert asks == (into_draining and what is not LifeInput.LEAVE)

    def test_the_dead_have_nothing_to_do(self):
        assert [TABLE[State.DEAD, what].actions for what in LifeInput] == [()] * len(LifeInput)
        assert [TABLE[State.DEAD, what].limit for what in LifeInput] == [None] * len(LifeInput)

    @pytest.mark.parametrize("stage", STAGES, ids=str)
    def test_which_workers_may_serve(self, stage):
        assert life_in(stage).may_serve == (stage in (State.NONE, State.ONLINE, State.LISTENING))

    def test_one_that_leaves_early_has_the_public_state_none(self):
        life = life_in(Hidden.LEAVING_EARLY)
        assert (life.state, life.voluntary) == (State.NONE, True)


class TestDeadlines:
    @pytest.mark.parametrize("what", [LifeInput.DISCONNECT, LifeInput.LEAVE])
    @pytest.mark.parametrize("state", [State.NONE, State.ONLINE, State.LISTENING], ids=str)
    def test_leaving_has_grace_and_a_margin(self, state, what):
        life = life_in(state)
        life.handle(what, NOW, grace=GRACE)
        assert life.voluntary
        assert life.deadline == NOW + GRACE + lifecycle.KILL_MARGIN

    def test_asking_again_only_shortens(self):
        life = life_in(State.LISTENING)
        life.handle(LifeInput.DISCONNECT, NOW, grace=GRACE)
        life.handle(LifeInput.DISCONNECT, NOW + 1, grace=1000)
        assert life.deadline == NOW + GRACE + lifecycle.KILL_MARGIN
        life.handle(LifeInput.DISCONNECT, NOW + 1, grace=0.5)
        assert life.deadline == NOW + 1.5 + lifecycle.KILL_MARGIN

    def test_a_lost_channel_leaves_the_margin_alone(self):
        life = life_in(State.LISTENING)
        life.handle(LifeInput.CHANNEL_LOST, NOW)
        assert not life.voluntary
        assert life.deadline == NOW + lifecycle.KILL_MARGIN

    def test_one_that_leaves_may_use_up_its_grace_after_its_channel_closed(self):
        life = life_in(State.LISTENING)
        life.handle(LifeInput.LEAVE, NOW, grace=GRACE)
        life.handle(LifeInput.CHANNEL_LOST, NOW + 1)
        assert life.deadline == NOW + GRACE + lifecycle.KILL_MARGIN

    def test_unless_it_broke_the_protocol(self):
        life = life_in(State.LISTENING)
        life.handle(LifeInput.LEAVE, NOW, grace=GRACE)
        life.handle(LifeInput.BROKE_PROTOCOL, NOW + 1)
        life.handle(LifeInput.CHANNEL_LOST, NOW + 1)
        assert life.deadline == NOW + 1 + lifecycle.KILL_MARGIN

    def test_asked_before_it_is_there_it_is_told_when_it_joins(self):
        life = Life()
        assert life.handle(LifeInput.DISCONNECT, NOW, grace=GRACE) == ()
        assert life.handle(LifeInput.JOINED, NOW + 1) == (
            LifeAction.EMIT_ONLINE,
            LifeAction.LEAVE_ROTATION,
            LifeAction.ASK_TO_LEAVE,
        )
        assert life.state is State.DRAINING
        assert life.deadline == NOW + GRACE + lifecycle.KILL_MARGIN

    @pytest.mark.parametrize("stage", STAGES, ids=str)
    def test_the_end_of_it(self, stage):
        life = life_in(stage)
        life.deadline = NOW
        assert life.handle(LifeInput.OVERDUE, NOW) == (() if stage is State.DEAD else (LifeAction.KILL,))
        assert stage is State.DEAD or life.deadline is None

    def test_the_dead_have_none(self):
        life = life_in(State.LISTENING)
        life.handle(LifeInput.DISCONNECT, NOW, grace=GRACE)
        life.handle(LifeInput.EXITED, NOW)
        life.handle(LifeInput.BROKE_PROTOCOL, NOW)  # among its last messages
        life.die()
        assert life.deadline is None
        life.handle(LifeInput.BROKE_PROTOCOL, NOW)
        life.handle(LifeInput.DISCONNECT, NOW, grace=GRACE)
        assert life.deadline is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(LifeInput),
            st.floats(0, 10, allow_nan=False),
            st.floats(0, 100, allow_nan=False),
        ),
        max_size=30,
    )
)
def test_any_history_ends_with_one_disconnected_and_one_exited(history):
    """No state occurs twice, deadlines only come closer, `Disconnected`, `Exited` come once each."""
    life, now = Life(), NOW
    stages, done = [life.stage], []
    for what, seconds, grace in [*history, (LifeInput.EXITED, 0.0, 0.0)]:
        now += seconds
        before, deadline, was_voluntary = life.stage, life.deadline, life.voluntary
        try:
            done += feed(life, what, now, grace=grace)
        except ProtocolError:
            assert what is LifeInput.JOINED
            assert before is not State.NONE
        if life.stage is not before:
            stages.append(life.stage)
        if life.state is State.DEAD:
            assert life.deadline is None
        elif deadline is not None and what is not LifeInput.OVERDUE:
            assert life.deadline is not None
            assert life.deadline <= deadline
        asked = what in (LifeInput.DISCONNECT, LifeInput.LEAVE) and before in CONNECTED
        assert life.voluntary == (was_voluntary or asked)
    assert [STAGES.index(stage) for stage in stages] == sorted({STAGES.index(stage) for stage in stages})
    actions = [action for action, _ in done]
    assert actions.count(LifeAction.EMIT_ONLINE) <= 1
    gone = [
        (action, state)
        for action, state in done
        if action in (LifeAction.EMIT_DISCONNECTED, LifeAction.EMIT_EXITED)
    ]
    assert gone == [(LifeAction.EMIT_DISCONNECTED, State.DISCONNECTED), (LifeAction.EMIT_EXITED, State.DEAD)]
    at = actions.index(LifeAction.EMIT_DISCONNECTED)  # emitted only once nothing of it is left
    assert {LifeAction.LEAVE_ROTATION, LifeAction.CLOSE_CHANNEL, LifeAction.RELEASE} <= set(actions[:at])
