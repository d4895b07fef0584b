"""What stops a process, and how: a table for each kind of process.

`PROGRAM` and `COMMAND` are for a primary, `WORKER` and `GUEST` for a worker. Each table gives, for every
stage and every input, the next stage and the actions to take, in order. `aio.shutdown` takes them in the
primary, and `worker.signals` in a worker. docs/reference/signals.md is generated from these tables.

A signal that a table does not name keeps the system's default.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

import msgspec

#: A signal repeated within this many seconds is the same request. GNU timeout, for one, signals its child and
#: then the process group of the child.
SAME_REQUEST: Final = 0.1


class StopInput(enum.Enum):
    """The inputs. A signal becomes an input when its Python handler runs, in the main thread."""

    TERM = "SIGTERM"
    INT = "SIGINT"
    QUIT = "SIGQUIT"
    ALL_GONE = "the last worker is gone"
    LATE = "SIGTERM or SIGINT, after the main thread has finished and waits for other threads"
    WAITED = "the waiting thread repeats the signal"
    WAITED_LATE = "the waiting thread repeats the signal, after the main thread has finished and waits"
    LOOP_BEGINS = "`everycore.run` is called"
    LOOP_RUNS = "the loop of `everycore.run` runs"
    LOOP_HEARS_TERM = "the loop handles SIGTERM"
    LOOP_HEARS_INT = "the loop handles SIGINT"
    DEPARTS = "the worker begins to leave, for whatever reason"
    LOOP_ENDS = "the loop is closed"


#: The inputs that are signals to the process.
SIGNALS: Final = (StopInput.TERM, StopInput.INT, StopInput.QUIT)
#: The signals that are handled even if they were ignored when the process was started.
HEARD_ANYWAY: Final = (StopInput.TERM, StopInput.INT)


class PrimaryStage(enum.Enum):
    """The stages of a primary with an open `Cluster`."""

    RUNNING = "it has not been asked to stop"
    STOPPING = "its workers finish their work and leave, within the grace"
    ENDING = "its workers are gone, or are killed"


class WorkerStage(enum.Enum):
    """The stages of a worker."""

    PROGRAM = "its program runs, and no loop of `everycore.run` does"
    WAITING = "it is leaving, and a thread waits for its connections"
    ENDED = "its main thread was told to end"
    MAKING = "a loop of `everycore.run` is being made; a signal is noted until the loop runs"
    NOTED = "such a loop is being made, and a signal has come"
    LOOP = "a loop of `everycore.run` runs"
    ASKED = "a signal has come, and the loop has not handled it yet"
    LEAVING = "it is leaving, within the grace"
    DEAF = "the grace is over, and the loop has not handled the signal: something blocks it"


class StopAction(enum.Enum):
    """The actions that an input can lead to."""

    TELL = "a log line says so, and how to end everything at once"
    ASK = "all workers are asked to finish their work and leave, and no more are started"
    DUMP = "the workers print the stacks of their threads and end, one after the other"
    CANCEL = "`main` is cancelled (in a primary, this kills all workers)"
    WAIT = "a thread tells the primary, and waits until no connection is open or the grace is over"
    WAIT_HERE = "the main thread waits in the same way, because no thread can be started any more"
    EXIT = "`SystemExit(0)` is raised in the main thread"
    GUARD = "a thread waits for the grace, in case the loop does not handle the signal"
    LEAVE = "the worker tells the primary, finishes its work and leaves"
    DIE = "the signal kills the process, or SIGKILL a second later"


S = TypeVar("S", PrimaryStage, WorkerStage)


class StopStep(msgspec.Struct, Generic[S], frozen=True):
    """The stage after an input, and the actions to take."""

    after: S
    actions: tuple[StopAction, ...] = ()


Table = Mapping[tuple[S, StopInput], StopStep[S]]

# --- a primary ----------------------------------------------------------------------------------------------

_RUNNING, _STOPPING, _ENDING = PrimaryStage.RUNNING, PrimaryStage.STOPPING, PrimaryStage.ENDING

#: A program under `everycore.run`, while a `Cluster` or `Pool` of it is open.
PROGRAM: Final[Table[PrimaryStage]] = {
    (_RUNNING, StopInput.TERM): StopStep(_STOPPING, (StopAction.ASK,)),
    (_RUNNING, StopInput.INT): StopStep(_STOPPING, (StopAction.ASK,)),
    # Supervisors repeat SIGTERM. An impatient person presses Ctrl-C again.
    (_STOPPING, StopInput.TERM): StopStep(_STOPPING),
    (_STOPPING, StopInput.INT): StopStep(_ENDING, (StopAction.CANCEL,)),
    (_STOPPING, StopInput.ALL_GONE): StopStep(_ENDING, (StopAction.CANCEL,)),
    (_ENDING, StopInput.TERM): StopStep(_ENDING),
    # `main` may have begun another wait while it handled the first cancellation.
    (_ENDING, StopInput.INT): StopStep(_ENDING, (StopAction.CANCEL,)),
    (_ENDING, StopInput.ALL_GONE): StopStep(_ENDING),
}

#: `everycore serve` and `everycore run`, which end by themselves when the last worker is gone.
COMMAND: Final[Table[PrimaryStage]] = {
    (_RUNNING, StopInput.TERM): StopStep(_STOPPING, (StopAction.TELL, StopAction.ASK)),
    (_RUNNING, StopInput.INT): StopStep(_STOPPING, (StopAction.TELL, StopAction.ASK)),
    (_RUNNING, StopInput.QUIT): StopStep(_ENDING, (StopAction.DUMP, StopAction.CANCEL)),
    (_STOPPING, StopInput.TERM): StopStep(_STOPPING),
    (_STOPPING, StopInput.INT): StopStep(_ENDING, (StopAction.CANCEL,)),
    (_STOPPING, StopInput.QUIT): StopStep(_ENDING, (StopAction.DUMP, StopAction.CANCEL)),
    (_STOPPING, StopInput.ALL_GONE): StopStep(_STOPPING),
    (_ENDING, StopInput.TERM): StopStep(_ENDING),
    (_ENDING, StopInput.INT): StopStep(_ENDING),
    (_ENDING, StopInput.QUIT): StopStep(_ENDING),
    (_ENDING, StopInput.ALL_GONE): StopStep(_ENDING),
}

# --- a worker -----------------------------------------------------------------------------------------------

_PROGRAM, _WAITING, _ENDED, _MAKING, _NOTED = (
    WorkerStage.PROGRAM, WorkerStage.WAITING, WorkerStage.ENDED, WorkerStage.MAKING, WorkerStage.NOTED
)  # fmt: skip
_LOOP, _ASKED, _LEAVING, _DEAF = WorkerStage.LOOP, WorkerStage.ASKED, WorkerStage.LEAVING, WorkerStage.DEAF

_WORKERS_INPUTS: Final = tuple(what for what in StopInput if what not in (StopInput.QUIT, StopInput.ALL_GONE))

#: A worker of a program. A worker of `everycore serve` enters `MAKING` as early as possible.
WORKER: Final[Table[WorkerStage]] = {
    # An input that is not named below changes nothing.
    **{(stage, what): StopStep(stage) for stage in WorkerStage for what in _WORKERS_INPUTS},
    (_PROGRAM, StopInput.TERM): StopStep(_WAITING, (StopAction.WAIT,)),
    (_PROGRAM, StopInput.INT): StopStep(_WAITING, (StopAction.WAIT,)),
    (_PROGRAM, StopInput.LATE): StopStep(_ENDED, (StopAction.WAIT_HERE, StopAction.EXIT)),
    (_PROGRAM, StopInput.LOOP_BEGINS): StopStep(_MAKING),
    (_WAITING, StopInput.WAITED): StopStep(_ENDED, (StopAction.EXIT,)),
    (_WAITING, StopInput.WAITED_LATE): StopStep(_ENDED, (StopAction.EXIT,)),
    (_WAITING, StopInput.LOOP_BEGINS): StopStep(_NOTED),
    (_ENDED, StopInput.LOOP_BEGINS): StopStep(_NOTED),  # the program caught SystemExit
    # SystemExit in the middle of a constructor would leave half a loop behind.
    (_MAKING, StopInput.TERM): StopStep(_NOTED),
    (_MAKING, StopInput.INT): StopStep(_NOTED),
    (_MAKING, StopInput.WAITED): StopStep(_NOTED),  # it arrived at the very moment when the making began
    (_MAKING, StopInput.LOOP_RUNS): StopStep(_LOOP),
    (_MAKING, StopInput.LOOP_ENDS): StopStep(_PROGRAM),
    (_NOTED, StopInput.LOOP_RUNS): StopStep(_LEAVING, (StopAction.LEAVE,)),
    (_NOTED, StopInput.LOOP_ENDS): StopStep(_ENDED),
    (_LOOP, StopInput.TERM): StopStep(_ASKED, (StopAction.GUARD,)),
    (_LOOP, StopInput.INT): StopStep(_ASKED, (StopAction.GUARD,)),
    (_LOOP, StopInput.LOOP_HEARS_TERM): StopStep(_LEAVING, (StopAction.LEAVE,)),
    (_LOOP, StopInput.LOOP_HEARS_INT): StopStep(_LEAVING, (StopAction.LEAVE,)),
    (_LOOP, StopInput.DEPARTS): StopStep(_LEAVING),
    (_LOOP, StopInput.LOOP_ENDS): StopStep(_PROGRAM),
    (_ASKED, StopInput.LOOP_HEARS_TERM): StopStep(_LEAVING, (StopAction.LEAVE,)),
    (_ASKED, StopInput.LOOP_HEARS_INT): StopStep(_LEAVING, (StopAction.LEAVE,)),
    (_ASKED, StopInput.DEPARTS): StopStep(_LEAVING),
    (_ASKED, StopInput.WAITED): StopStep(_DEAF, (StopAction.DIE,)),
    (_ASKED, StopInput.LOOP_ENDS): StopStep(_ENDED),
    (_LEAVING, StopInput.LOOP_HEARS_INT): StopStep(_LEAVING, (StopAction.CANCEL,)),
    (_LEAVING, StopInput.LOOP_ENDS): StopStep(_ENDED),
}

#: A worker of `everycore run`. Its program knows nothing of everycore and is told to end until it does.
GUEST: Final[Table[WorkerStage]] = {
    **WORKER,
    (_ENDED, StopInput.LATE): StopStep(_ENDED, (StopAction.EXIT,)),
    (_ENDED, StopInput.WAITED_LATE): StopStep(_ENDED, (StopAction.EXIT,)),
}

# --- one process --------------------------------------------------------------------------------------------

#: Input -> the inputs within SAME_REQUEST of which it is the same request.
_ECHO_OF: Final[Mapping[StopInput, tuple[StopInput, ...]]] = {
    StopInput.TERM: (StopInput.TERM,),
    StopInput.INT: (StopInput.INT,),
    # Ctrl-C in a terminal reaches a worker and also its primary, which then asks the worker to leave.
    StopInput.LOOP_HEARS_INT: (StopInput.LOOP_HEARS_INT, StopInput.DEPARTS),
}


class Machine(msgspec.Struct, Generic[S]):
    """The state of one process in its table."""

    table: Table[S]
    stage: S
    _last: dict[StopInput, float] = msgspec.field(default_factory=dict)

    def take(self, what: StopInput, now: float) -> tuple[StopAction, ...]:
        """Take the input `what`, at `now` in seconds. Returns the actions to take, in order."""
        is_echo = any(now - self._last.get(of, float("-inf")) < SAME_REQUEST for of in _ECHO_OF.get(what, ()))
        self._last[what] = now
        if is_echo:
            return ()
        before = self.stage
        step = self.table[before, what]
        if step.after is not before:  # else this would undo a signal that arrives between these lines
            self.stage = step.after
        return step.actions


def is_unheard(table: Table[WorkerStage], stage: WorkerStage) -> bool:
    """Whether a signal that a waiting thread repeats still has an effect in `stage`."""
    if stage is WorkerStage.ENDED:
        return table[stage, StopInput.WAITED_LATE] != StopStep(stage)
    return stage in (WorkerStage.WAITING, WorkerStage.MAKING)


def signals_of(table: Table[S]) -> tuple[StopInput, ...]:
    """Return the signals that `table` names."""
    return tuple(signal for signal in SIGNALS if any(what is signal for _, what in table))
