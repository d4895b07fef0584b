"""The life of one worker, as a table.

`TABLE` says for every state and every input which state comes next, what is to be done, in order, and when
the worker is killed unless it is gone. Everything that affects a worker's state stands there, and nothing
there knows how anything is done. The page `docs/explanation/worker-states.md` is drawn from it.

    none -> online -> listening -> draining -> disconnected -> dead

A worker may skip states, and never goes back. `Disconnected` and `Exited` are emitted exactly once each, in
that order.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias

import msgspec

from everycore.errors import ProtocolError
from everycore.model import State

#: A worker that should have left by itself has this long before it is killed, in seconds.
KILL_MARGIN: Final = 1.0


class Hidden(enum.Enum):
    """A state that is not public: `State.NONE` stands for it."""

    LEAVING_EARLY = "leaving early"


#: Where a worker is in its life.
Stage: TypeAlias = State | Hidden


class LifeInput(enum.Enum):
    """What can happen to a worker."""

    JOINED = "its process runs and joined the channel"
    LISTENED = "it holds a listener"
    DISCONNECT = "the primary asks it to leave"
    LEAVE = "it says that it leaves"
    BROKE_PROTOCOL = "it said what the protocol does not allow; its channel is lost next"
    CHANNEL_LOST = "its channel closed"
    EXITED = "its process ended, or never started; what it had still sent was read"
    OVERDUE = "it did not leave in time"


class LifeAction(enum.Enum):
    """What is to be done, in the order given."""

    ASK_TO_LEAVE = "send it `Disconnect`; SIGTERM before if no loop of ours reads the channel"
    LEAVE_ROTATION = "no more connections for it; take back what it has not picked up"
    RELEASE = "it holds no listener any more"
    CLOSE_CHANNEL = "close the channel and the link"
    DIE = "its state is `dead` from here on: `Disconnected` was emitted in the state before"
    EMIT_ONLINE = "Online"
    EMIT_DISCONNECTED = "Disconnected"
    EMIT_EXITED = "Exited"
    KILL = "SIGKILL"


class TimeLimit(enum.Enum):
    """When a worker is killed unless it is gone by then. A limit only comes closer, but for SHUTDOWN."""

    GRACE = "the grace that it was given, and a margin"
    MARGIN = "the margin alone"
    SHUTDOWN = "the time that its program has for its own shutdown, and a margin; this limit may be later"
    OFF = "it is not any more"


class LifeStep(msgspec.Struct, frozen=True):
    """The state after an input, what is to be done, and the worker's limit from now on.

    limit: None leaves it as it is.
    via: the state in which the actions begin; the action `DIE` enters `after`.
    error: the input breaks the protocol, and has no effect but this ProtocolError.
    """

    after: Stage
    actions: tuple[LifeAction, ...] = ()
    limit: TimeLimit | None = None
    via: Stage | None = None
    error: str = ""


_NONE, _EARLY, _ONLINE, _LISTENING = State.NONE, Hidden.LEAVING_EARLY, State.ONLINE, State.LISTENING
_DRAINING, _GONE, _DEAD = State.DRAINING, State.DISCONNECTED, State.DEAD

#: All of them, in the order of a life.
STAGES: Final[tuple[Stage, ...]] = (_NONE, _EARLY, _ONLINE, _LISTENING, _DRAINING, _GONE, _DEAD)
_SERVING: Final[tuple[Stage, ...]] = (_NONE, _ONLINE, _LISTENING)
_LEAVING: Final[tuple[Stage, ...]] = (_EARLY, _DRAINING)
_CONNECTED: Final[tuple[Stage, ...]] = (_NONE, _EARLY, _ONLINE, _LISTENING, _DRAINING)
_ENDED: Final[tuple[Stage, ...]] = (_GONE, _DEAD)

_LOST: Final = (
    LifeAction.LEAVE_ROTATION,
    LifeAction.CLOSE_CHANNEL,
    LifeAction.RELEASE,
    LifeAction.EMIT_DISCONNECTED,
)
_EXITED: Final = (*_LOST, LifeAction.DIE, LifeAction.EMIT_EXITED)
_LEAVE: Final = (LifeAction.LEAVE_ROTATION,)
_DISCONNECT: Final = (LifeAction.LEAVE_ROTATION, LifeAction.ASK_TO_LEAVE)

#: State x input -> step, for each of both.
TABLE: Final[dict[tuple[Stage, LifeInput], LifeStep]] = {
    (_NONE, LifeInput.JOINED): LifeStep(_ONLINE, (LifeAction.EMIT_ONLINE,)),
    # It was asked to leave before it was there to hear it.
    (_EARLY, LifeInput.JOINED): LifeStep(_DRAINING, (LifeAction.EMIT_ONLINE, *_DISCONNECT)),
    **{
        (stage, LifeInput.JOINED): LifeStep(stage, error="a worker joined its channel twice")
        for stage in STAGES[2:]
    },
    **{(stage, LifeInput.LISTENED): LifeStep(stage) for stage in STAGES},
    (_ONLINE, LifeInput.LISTENED): LifeStep(_LISTENING),
    **{(stage, LifeInput.DISCONNECT): LifeStep(stage) for stage in _ENDED},
    **{(stage, LifeInput.DISCONNECT): LifeStep(stage, limit=TimeLimit.GRACE) for stage in _LEAVING},
    (_NONE, LifeInput.DISCONNECT): LifeStep(_EARLY, limit=TimeLimit.GRACE),
    (_ONLINE, LifeInput.DISCONNECT): LifeStep(_DRAINING, _DISCONNECT, TimeLimit.GRACE),
    (_LISTENING, LifeInput.DISCONNECT): LifeStep(_DRAINING, _DISCONNECT, TimeLimit.GRACE),
    **{(stage, LifeInput.LEAVE): LifeStep(stage) for stage in _ENDED},
    **{(stage, LifeInput.LEAVE): LifeStep(stage, limit=TimeLimit.GRACE) for stage in _LEAVING},
    (_NONE, LifeInput.LEAVE): LifeStep(_EARLY, limit=TimeLimit.GRACE),
    (_ONLINE, LifeInput.LEAVE): LifeStep(_DRAINING, _LEAVE, TimeLimit.GRACE),
    (_LISTENING, LifeInput.LEAVE): LifeStep(_DRAINING, _LEAVE, TimeLimit.GRACE),
    # Whatever grace it was given is over.
    **{(stage, LifeInput.BROKE_PROTOCOL): LifeStep(stage, limit=TimeLimit.MARGIN) for stage in STAGES},
    (_DEAD, LifeInput.BROKE_PROTOCOL): LifeStep(_DEAD),
    **{(stage, LifeInput.CHANNEL_LOST): LifeStep(_GONE, _LOST, TimeLimit.MARGIN) for stage in _SERVING},
    # Its work is done, and its program ends: it may use up the grace that it was given, or the time for that.
    **{(stage, LifeInput.CHANNEL_LOST): LifeStep(_GONE, _LOST, TimeLimit.SHUTDOWN) for stage in _LEAVING},
    **{(stage, LifeInput.CHANNEL_LOST): LifeStep(stage) for stage in _ENDED},
    **{(stage, LifeInput.EXITED): LifeStep(_DEAD, _EXITED, via=_GONE) for stage in _CONNECTED},
    (_GONE, LifeInput.EXITED): LifeStep(_DEAD, (LifeAction.EMIT_EXITED,)),
    (_DEAD, LifeInput.EXITED): LifeStep(_DEAD),
    **{(stage, LifeInput.OVERDUE): LifeStep(stage, (LifeAction.KILL,), TimeLimit.OFF) for stage in STAGES},
    (_DEAD, LifeInput.OVERDUE): LifeStep(_DEAD),
}


class Life(msgspec.Struct):
    """One worker. `deadline` is when it is killed unless it is gone; the driver keeps a timer for it.

    voluntary: it was asked to leave, or said that it leaves, before its channel was lost.
    """

    stage: Stage = State.NONE
    voluntary: bool = False
    deadline: float | None = None

    @property
    def state(self) -> State:
        """The stage, as the public is told it."""
        return self.stage if isinstance(self.stage, State) else State.NONE

    @property
    def may_serve(self) -> bool:
        """Whether it may get listeners and connections: it is there or on its way, and stays."""
        return self.stage in _SERVING

    def handle(
        self, what: LifeInput, now: float, *, grace: float = 0.0, shutdown: float = 0.0
    ) -> tuple[LifeAction, ...]:
        """Take note of `what`; return what is to be done.

        `grace` goes with DISCONNECT and LEAVE, `shutdown` with CHANNEL_LOST; both in seconds.
        """
        step = TABLE[self.stage, what]
        if step.error:
            raise ProtocolError(step.error)
        match step.limit:
            case TimeLimit.GRACE:
                self._kill_by(now + grace + KILL_MARGIN)
            case TimeLimit.MARGIN:
                self._kill_by(now + KILL_MARGIN)
            case TimeLimit.SHUTDOWN:
                if shutdown > 0 and self.deadline is not None:
                    self.deadline = max(self.deadline, now + shutdown + KILL_MARGIN)
            case TimeLimit.OFF:
                self.deadline = None
        self._enter(step.after if step.via is None else step.via)
        return step.actions

    def die(self) -> None:
        """Perform `LifeAction.DIE`."""
        self._enter(_DEAD)

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        self.voluntary = self.voluntary or stage in _LEAVING
        if stage is _DEAD:
            self.deadline = None

    def _kill_by(self, deadline: float) -> None:
        """Asking again with a longer grace does not prolong it."""
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)
