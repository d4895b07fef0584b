"""Every state meets every input: what `core.lifecycle` says, and what it never says."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core import lifecycle
from everycore.core.lifecycle import TABLE, Do, Input, Life
from everycore.errors import ProtocolError
from everycore.model import State

ORDER = list(State)
NOW = 100.0
GRACE = 7.0

#: How a life gets into each state, the shortest way, and not voluntarily where that can be.
WAYS = {
    State.NONE: (),
    State.ONLINE: (Input.JOINED,),
    State.LISTENING: (Input.JOINED, Input.LISTENED),
    State.DRAINING: (Input.JOINED, Input.DISCONNECT),
    State.DISCONNECTED: (Input.JOINED, Input.CHANNEL_LOST),
    State.DEAD: (Input.JOINED, Input.CHANNEL_LOST, Input.EXITED),
}


def life_in(state: State) -> Life:
    life = Life()
    for what in WAYS[state]:
        life.handle(what, NOW, grace=GRACE)
    assert life.state is state
    life.deadline = None
    return life


#: State x input -> (new state, what is done). "raises" is a ProtocolError.
EXPECTED = {
    (State.NONE, Input.JOINED): (State.ONLINE, [Do.EMIT_ONLINE]),
    (State.NONE, Input.LISTENED): (State.NONE, []),
    (State.NONE, Input.DISCONNECT): (State.NONE, []),
    (State.NONE, Input.LEAVE): (State.NONE, []),
    (State.ONLINE, Input.LISTENED): (State.LISTENING, []),
    (State.ONLINE, Input.DISCONNECT): (State.DRAINING, [Do.LEAVE_ROTATION, Do.ASK_TO_LEAVE]),
    (State.ONLINE, Input.LEAVE): (State.DRAINING, [Do.LEAVE_ROTATION]),
    (State.LISTENING, Input.LISTENED): (State.LISTENING, []),
    (State.LISTENING, Input.DISCONNECT): (State.DRAINING, [Do.LEAVE_ROTATION, Do.ASK_TO_LEAVE]),
    (State.LISTENING, Input.LEAVE): (State.DRAINING, [Do.LEAVE_ROTATION]),
    (State.DRAINING, Input.LISTENED): (State.DRAINING, []),
    (State.DRAINING, Input.DISCONNECT): (State.DRAINING, []),
    (State.DRAINING, Input.LEAVE): (State.DRAINING, []),
    (State.DISCONNECTED, Input.LISTENED): (State.DISCONNECTED, []),
    (State.DISCONNECTED, Input.DISCONNECT): (State.DISCONNECTED, []),
    (State.DISCONNECTED, Input.LEAVE): (State.DISCONNECTED, []),
    (State.DISCONNECTED, Input.CHANNEL_LOST): (State.DISCONNECTED, []),
    (State.DISCONNECTED, Input.EXITED): (State.DEAD, [Do.EMIT_EXITED]),
    (State.DEAD, Input.LISTENED): (State.DEAD, []),
    (State.DEAD, Input.DISCONNECT): (State.DEAD, []),
    (State.DEAD, Input.LEAVE): (State.DEAD, []),
    (State.DEAD, Input.CHANNEL_LOST): (State.DEAD, []),
    (State.DEAD, Input.EXITED): (State.DEAD, []),
    **{(state, Input.JOINED): (state, "raises") for state in ORDER[1:]},
    **{
        (state, Input.CHANNEL_LOST): (
            State.DISCONNECTED,
            [Do.LEAVE_ROTATION, Do.CLOSE_CHANNEL, Do.RELEASE, Do.EMIT_DISCONNECTED],
        )
        for state in ORDER[:4]
    },
    **{
        (state, Input.EXITED): (
            State.DISCONNECTED,
            [Do.LEAVE_ROTATION, Do.READ_TO_END, Do.CLOSE_CHANNEL, Do.RELEASE, Do.EMIT_DISCONNECTED],
        )
        for state in ORDER[:4]
    },
}


def test_every_state_and_input_is_expected_here():
    assert set(EXPECTED) == set(itertools.product(State, Input))


@pytest.mark.parametrize(
    ("state", "what"), list(itertools.product(State, Input)), ids=lambda value: str(value.name).lower()
)
def test_each_state_with_each_input(state, what):
    life = life_in(state)
    after, todo = EXPECTED[state, what]
    if todo == "raises":
        with pytest.raises(ProtocolError, match="joined its channel twice"):
            life.handle(what, NOW, grace=GRACE)
    else:
        assert life.handle(what, NOW, grace=GRACE) == todo
    assert life.state is after


@pytest.mark.parametrize(("state", "what"), list(TABLE), ids=lambda value: str(value.name).lower())
def test_the_table_itself_is_what_happens(state, what):
    """The picture in the documentation is drawn from it. (A first exit may be the channel's loss.)"""
    life = life_in(state)
    life.handle(what, NOW, grace=GRACE)
    assert life.state is TABLE[state, what]
    assert ORDER.index(life.state) > ORDER.index(state)


class TestDeadlines:
    @pytest.mark.parametrize("what", [Input.DISCONNECT, Input.LEAVE])
    @pytest.mark.parametrize("state", [State.NONE, State.ONLINE, State.LISTENING], ids=str)
    def test_leaving_has_grace_and_a_margin(self, state, what):
        life = life_in(state)
        life.handle(what, NOW, grace=GRACE)
        assert life.voluntary
        assert life.deadline == NOW + GRACE + lifecycle.KILL_MARGIN

    def test_asking_again_only_shortens(self):
        life = life_in(State.LISTENING)
        life.handle(Input.DISCONNECT, NOW, grace=GRACE)
        life.handle(Input.DISCONNECT, NOW + 1, grace=1000)
        assert life.deadline == NOW + GRACE + lifecycle.KILL_MARGIN
        life.handle(Input.DISCONNECT, NOW + 1, grace=0.5)
        assert life.deadline == NOW + 1.5 + lifecycle.KILL_MARGIN

    def test_a_lost_channel_leaves_the_margin_alone(self):
        life = life_in(State.LISTENING)
        life.handle(Input.CHANNEL_LOST, NOW)
        assert not life.voluntary
        assert life.deadline == NOW + lifecycle.KILL_MARGIN

    def test_one_that_leaves_may_use_up_its_grace_after_its_channel_closed(self):
        life = life_in(State.LISTENING)
        life.handle(Input.LEAVE, NOW, grace=GRACE)
        life.handle(Input.CHANNEL_LOST, NOW + 1)
        assert life.deadline == NOW + GRACE + lifecycle.KILL_MARGIN

    def test_unless_it_broke_the_protocol(self):
        life = life_in(State.LISTENING)
        life.handle(Input.LEAVE, NOW, grace=GRACE)
        life.condemn(NOW + 1)
        life.handle(Input.CHANNEL_LOST, NOW + 1)
        assert life.deadline == NOW + 1 + lifecycle.KILL_MARGIN

    def test_asked_before_it_is_there_it_is_told_when_it_joins(self):
        life = Life()
        assert life.handle(Input.DISCONNECT, NOW, grace=GRACE) == []
        assert life.handle(Input.JOINED, NOW + 1) == [Do.EMIT_ONLINE, Do.LEAVE_ROTATION, Do.ASK_TO_LEAVE]
        assert life.state is State.DRAINING
        assert life.deadline == NOW + GRACE + lifecycle.KILL_MARGIN

    @pytest.mark.parametrize("state", list(State), ids=str)
    def test_the_end_of_it(self, state):
        life = life_in(state)
        life.deadline = NOW
        assert life.expire() == ([] if state is State.DEAD else [Do.KILL])
        assert life.deadline is None

    def test_the_dead_have_none(self):
        life = life_in(State.LISTENING)
        life.handle(Input.DISCONNECT, NOW, grace=GRACE)
        life.handle(Input.EXITED, NOW)
        life.handle(Input.EXITED, NOW)
        assert life.deadline is None
        life.condemn(NOW)
        life.handle(Input.DISCONNECT, NOW, grace=GRACE)
        assert life.deadline is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*Input, "condemn", "expire"]),
            st.floats(0, 10, allow_nan=False),
            st.floats(0, 100, allow_nan=False),
        ),
        max_size=30,
    )
)
def test_any_history(history):
    """No state twice, `Disconnected` and `Exited` once each and in this order, deadlines only come closer."""
    life, now = Life(), NOW
    states, done = [life.state], []
    for what, seconds, grace in history:
        now += seconds
        before, deadline = life.state, life.deadline
        if what == "condemn":
            life.condemn(now)
        elif what == "expire":
            done += life.expire()
            continue
        else:
            try:
                done += life.handle(what, now, grace=grace)
            except ProtocolError:
                assert what is Input.JOINED
                assert before is not State.NONE
        if life.state is not before:
            states.append(life.state)
        if life.state is State.DEAD:
            assert life.deadline is None
        elif deadline is not None:
            assert life.deadline is not None
            assert life.deadline <= deadline
    assert [ORDER.index(state) for state in states] == sorted({ORDER.index(state) for state in states})
    assert done.count(Do.EMIT_ONLINE) <= 1
    gone = [step for step in done if step in (Do.EMIT_DISCONNECTED, Do.EMIT_EXITED)]
    assert gone == [Do.EMIT_DISCONNECTED, Do.EMIT_EXITED][: len(gone)]
    assert (life.state is State.DEAD) == (Do.EMIT_EXITED in gone)
    assert (life.state in (State.DISCONNECTED, State.DEAD)) == (Do.EMIT_DISCONNECTED in gone)
    if Do.EMIT_DISCONNECTED in done:  # nothing of it is left, and it is told only then
        at = done.index(Do.EMIT_DISCONNECTED)
        assert {Do.LEAVE_ROTATION, Do.CLOSE_CHANNEL, Do.RELEASE} <= set(done[:at])
