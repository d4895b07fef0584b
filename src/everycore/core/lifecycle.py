"""The life of one worker, as a table.

Job: given what happened to a worker, say its new state and what is to be done.
Two rules: everything that affects a worker's state lives here; and nothing here knows how anything is done.
Must not import anything with I/O or a clock. The picture in `docs/explanation/worker-states.md` is drawn from
`TABLE`.

    none -> online -> listening -> draining -> disconnected -> dead

A worker may skip states, never go back. `Disconnected` and `Exited` are emitted exactly once each, in that
order.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from everycore.errors import ProtocolError
from everycore.model import ExitStatus, State

#: A worker that should have left by itself has this long before it is killed, in seconds.
KILL_MARGIN: Final = 1.0


class Input(enum.Enum):
    """What can happen to a worker."""

    JOINED = "its process runs and joined the channel"
    LISTENED = "it holds a listener"
    DISCONNECT = "the primary asks it to leave"
    LEAVE = "it says that it leaves"
    CHANNEL_LOST = "its channel closed"
    #: Of a worker that still has its channel it is said twice: it loses that first, and is dead then.
    EXITED = "its process ended, or never started"


_NONE, _ONLINE, _LISTENING, _DRAINING, _GONE, _DEAD = (
    State.NONE,
    State.ONLINE,
    State.LISTENING,
    State.DRAINING,
    State.DISCONNECTED,
    State.DEAD,
)

#: State x input -> state. What is not in the table leaves the state as it is, except a second JOINED: an
#: error.
TABLE: Final[dict[tuple[State, Input], State]] = {
    (_NONE, Input.JOINED): _ONLINE,
    (_ONLINE, Input.LISTENED): _LISTENING,
    (_ONLINE, Input.DISCONNECT): _DRAINING,
    (_LISTENING, Input.DISCONNECT): _DRAINING,
    (_ONLINE, Input.LEAVE): _DRAINING,
    (_LISTENING, Input.LEAVE): _DRAINING,
    (_NONE, Input.CHANNEL_LOST): _GONE,
    (_ONLINE, Input.CHANNEL_LOST): _GONE,
    (_LISTENING, Input.CHANNEL_LOST): _GONE,
    (_DRAINING, Input.CHANNEL_LOST): _GONE,
    (_GONE, Input.EXITED): _DEAD,
}


class Do(enum.Enum):
    """What is to be done, in the order given."""

    ASK_TO_LEAVE = "send it `Disconnect`; SIGTERM before if no loop of ours reads the channel"
    LEAVE_ROTATION = "no more connections for it; take back what it has not picked up"
    RELEASE = "it holds no listener any more"
    CLOSE_CHANNEL = "close the channel and the link"
    READ_TO_END = "read what it had still sent"
    EMIT_ONLINE = "Online"
    EMIT_DISCONNECTED = "Disconnected"
    EMIT_EXITED = "Exited"
    KILL = "SIGKILL"


@dataclass(slots=True)
class Life:
    """One worker. `deadline` is when it is killed unless it is gone; the driver keeps a timer for it."""

    state: State = State.NONE
    voluntary: bool = False
    attached: bool = False
    deadline: float | None = None
    status: ExitStatus | None = None

    def handle(self, what: Input, now: float, *, grace: float = 0.0) -> list[Do]:
        """Take note of `what`; return what is to be done. `grace` goes with DISCONNECT and LEAVE."""
        if what is Input.JOINED and self.state is not _NONE:
            msg = "a worker joined its channel twice"
            raise ProtocolError(msg)
        before, self.state = self.state, TABLE.get((self.state, what), self.state)
        match what:
            case Input.JOINED:
                todo = [Do.EMIT_ONLINE]
                if self.voluntary:  # it was asked to leave before it was there
                    self.state = _DRAINING
                    todo += [Do.LEAVE_ROTATION, Do.ASK_TO_LEAVE]
                return todo
            case Input.DISCONNECT | Input.LEAVE:
                return self._leave(what, before, now + grace + KILL_MARGIN)
            case Input.CHANNEL_LOST:
                return self._lose_channel(before, now)
            case Input.EXITED:
                return self._exit(before)
            case _:
                return []

    def _leave(self, what: Input, before: State, deadline: float) -> list[Do]:
        if before in (_GONE, _DEAD):
            return []
        self.voluntary = True
        self._kill_by(deadline)
        if before in (_NONE, _DRAINING):
            return []  # not there yet: JOINED does it; or already told
        return [Do.LEAVE_ROTATION] + ([Do.ASK_TO_LEAVE] if what is Input.DISCONNECT else [])

    def _lose_channel(self, before: State, now: float) -> list[Do]:
        if before in (_GONE, _DEAD):
            return []
        if (
            not self.voluntary
        ):  # else it may use up the grace it was given: the channel closes before the program ends
            self._kill_by(now + KILL_MARGIN)
        return [Do.LEAVE_ROTATION, Do.CLOSE_CHANNEL, Do.RELEASE, Do.EMIT_DISCONNECTED]

    def _exit(self, before: State) -> list[Do]:
        if before is _DEAD:
            return []
        if before is _GONE:
            self.deadline = None
            return [Do.EMIT_EXITED]
        # Its `Disconnected` finds it so, whichever the kernel told first; the exit is to be said once more.
        self.state = _GONE
        return [Do.LEAVE_ROTATION, Do.READ_TO_END, Do.CLOSE_CHANNEL, Do.RELEASE, Do.EMIT_DISCONNECTED]

    def condemn(self, now: float) -> None:
        """It broke the protocol, and its channel is lost next: whatever grace it was given is over."""
        if self.state is not State.DEAD:
            self._kill_by(now + KILL_MARGIN)

    def expire(self) -> list[Do]:
        """The deadline has come."""
        self.deadline = None
        return [] if self.state is _DEAD else [Do.KILL]

    def _kill_by(self, deadline: float) -> None:
        """Deadlines only come closer: asking again with a longer grace does not prolong."""
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)
