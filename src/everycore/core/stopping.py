"""What stops a process, and how: a table for each kind of process.

`PROGRAM` and `COMMAND` are for a primary, `WORKER` and `GUEST` for a worker. Each says for every stage and
every input which stage comes next and what is to be done, in order. Nothing here knows how it is done: the
primary's edge is `aio.shutdown`, the worker's is `worker.signals`. docs/reference/signals.md is drawn from
these tables.

A signal that a table does not name keeps the system's default.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

#: The same signal again within so many seconds is the same request: GNU timeout, for one, signals its child
#: and then the process group that the child is in.
SAME_REQUEST: Final = 0.1


class Input(enum.Enum):
    """What can happen. A signal is an input when Python's handler runs, in the main thread."""

    TERM = "SIGTERM"
    INT = "SIGINT"
    QUIT = "SIGQUIT"
    ALL_GONE = "the last worker is gone"
    LATE = "SIGTERM or SIGINT, when the main thread is done and waits for other threads"
    WAITED = "the thread that has waited repeats the signal"
    WAITED_LATE = "that thread repeats it when the main thread is done and waits for other threads"
    LOOP_BEGINS = "`everycore.run` is called"
    LOOP_RUNS = "its loop runs"
    LOOP_HEARS_TERM = "its loop hears SIGTERM"
    LOOP_HEARS_INT = "its loop hears SIGINT"
    DEPARTS = "the worker begins to leave, whoever asked"
    LOOP_ENDS = "its loop is closed"


#: The inputs that are a signal to the process.
SIGNALS: Final = (Input.TERM, Input.INT, Input.QUIT)
#: Those that are heard even if they were ignored when the process was started.
HEARD_ANYWAY: Final = (Input.TERM, Input.INT)


class Primary(enum.Enum):
    """Where a primary with an open `Cluster` is."""

    RUNNING = "nobody has asked it to stop"
    STOPPING = "its workers finish and leave, within the grace"
    ENDING = "its workers are gone, or are killed"


class Worker(enum.Enum):
    """Where a worker is."""

    PROGRAM = "its program runs, and no loop of `everycore.run`"
    WAITING = "it leaves, and a thread waits for its connections"
    ENDED = "its main thread was told to end"
    MAKING = "a loop of `everycore.run` is being made; a signal is noted until it runs"
    NOTED = "the same, and a signal has come"
    LOOP = "a loop of `everycore.run` runs"
    ASKED = "a signal has come, and that loop has not heard it yet"
    LEAVING = "it leaves, within the grace"
    DEAF = "the grace is over, and that loop has not heard the signal: something blocks it"


class Do(enum.Enum):
    """What is to be done."""

    TELL = "a log line says so, and how to end it at once"
    ASK = "all workers are asked to finish and leave, and none is started any more"
    DUMP = "one after the other, the workers print the stacks of their threads and end"
    CANCEL = "`main` is cancelled (in a primary, this kills all workers)"
    WAIT = "a thread tells the primary, and waits until no connection is open or the grace is over"
    WAIT_HERE = "the main thread does so, for no thread can be started any more"
    EXIT = "`SystemExit(0)` is raised in the main thread"
    GUARD = "a thread waits for the grace, in case the loop does not hear"
    LEAVE = "the worker tells the primary, finishes its work and leaves"
    DIE = "the process dies by the signal, or a second later by SIGKILL"


S = TypeVar("S", Primary, Worker)


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """The stage after an input, and what is to be done."""

    after: S
    actions: tuple[Do, ...] = ()


Table = Mapping[tuple[S, Input], Step[S]]

# --- a primary ----------------------------------------------------------------------------------------------

_RUNNING, _STOPPING, _ENDING = Primary.RUNNING, Primary.STOPPING, Primary.ENDING

#: A program under `everycore.run`, while a `Cluster` or `Pool` of it is open.
PROGRAM: Final[Table[Primary]] = {
    (_RUNNING, Input.TERM): Step(_STOPPING, (Do.ASK,)),
    (_RUNNING, Input.INT): Step(_STOPPING, (Do.ASK,)),
    # Supervisors repeat SIGTERM. An impatient person presses Ctrl-C again.
    (_STOPPING, Input.TERM): Step(_STOPPING),
    (_STOPPING, Input.INT): Step(_ENDING, (Do.CANCEL,)),
    (_STOPPING, Input.ALL_GONE): Step(_ENDING, (Do.CANCEL,)),
    (_ENDING, Input.TERM): Step(_ENDING),
    # `main` may have begun to wait for something else while it was cancelled.
    (_ENDING, Input.INT): Step(_ENDING, (Do.CANCEL,)),
    (_ENDING, Input.ALL_GONE): Step(_ENDING),
}

#: `everycore serve` and `everycore run`. They end by themselves when the last worker is gone.
COMMAND: Final[Table[Primary]] = {
    (_RUNNING, Input.TERM): Step(_STOPPING, (Do.TELL, Do.ASK)),
    (_RUNNING, Input.INT): Step(_STOPPING, (Do.TELL, Do.ASK)),
    (_RUNNING, Input.QUIT): Step(_ENDING, (Do.DUMP, Do.CANCEL)),
    (_STOPPING, Input.TERM): Step(_STOPPING),
    (_STOPPING, Input.INT): Step(_ENDING, (Do.CANCEL,)),
    (_STOPPING, Input.QUIT): Step(_ENDING, (Do.DUMP, Do.CANCEL)),
    (_STOPPING, Input.ALL_GONE): Step(_STOPPING),
    (_ENDING, Input.TERM): Step(_ENDING),
    (_ENDING, Input.INT): Step(_ENDING),
    (_ENDING, Input.QUIT): Step(_ENDING),
    (_ENDING, Input.ALL_GONE): Step(_ENDING),
}

# --- a worker -----------------------------------------------------------------------------------------------

_PROGRAM, _WAITING, _ENDED, _MAKING, _NOTED = (
    Worker.PROGRAM, Worker.WAITING, Worker.ENDED, Worker.MAKING, Worker.NOTED
)  # fmt: skip
_LOOP, _ASKED, _LEAVING, _DEAF = Worker.LOOP, Worker.ASKED, Worker.LEAVING, Worker.DEAF

_WORKERS_INPUTS: Final = tuple(what for what in Input if what not in (Input.QUIT, Input.ALL_GONE))

#: A worker of a program; one of `everycore serve` is in `MAKING` as soon as it can be.
WORKER: Final[Table[Worker]] = {
    # What is not said below changes nothing.
    **{(stage, what): Step(stage) for stage in Worker for what in _WORKERS_INPUTS},
    (_PROGRAM, Input.TERM): Step(_WAITING, (Do.WAIT,)),
    (_PROGRAM, Input.INT): Step(_WAITING, (Do.WAIT,)),
    (_PROGRAM, Input.LATE): Step(_ENDED, (Do.WAIT_HERE, Do.EXIT)),
    (_PROGRAM, Input.LOOP_BEGINS): Step(_MAKING),
    (_WAITING, Input.WAITED): Step(_ENDED, (Do.EXIT,)),
    (_WAITING, Input.WAITED_LATE): Step(_ENDED, (Do.EXIT,)),
    (_WAITING, Input.LOOP_BEGINS): Step(_NOTED),
    (_ENDED, Input.LOOP_BEGINS): Step(_NOTED),  # it did not let SystemExit pass
    # SystemExit in the middle of a constructor would leave half a loop behind.
    (_MAKING, Input.TERM): Step(_NOTED),
    (_MAKING, Input.INT): Step(_NOTED),
    (_MAKING, Input.WAITED): Step(_NOTED),  # it came in the very moment in which the making began
    (_MAKING, Input.LOOP_RUNS): Step(_LOOP),
    (_MAKING, Input.LOOP_ENDS): Step(_PROGRAM),
    (_NOTED, Input.LOOP_RUNS): Step(_LEAVING, (Do.LEAVE,)),
    (_NOTED, Input.LOOP_ENDS): Step(_ENDED),
    (_LOOP, Input.TERM): Step(_ASKED, (Do.GUARD,)),
    (_LOOP, Input.INT): Step(_ASKED, (Do.GUARD,)),
    (_LOOP, Input.LOOP_HEARS_TERM): Step(_LEAVING, (Do.LEAVE,)),
    (_LOOP, Input.LOOP_HEARS_INT): Step(_LEAVING, (Do.LEAVE,)),
    (_LOOP, Input.DEPARTS): Step(_LEAVING),
    (_LOOP, Input.LOOP_ENDS): Step(_PROGRAM),
    (_ASKED, Input.LOOP_HEARS_TERM): Step(_LEAVING, (Do.LEAVE,)),
    (_ASKED, Input.LOOP_HEARS_INT): Step(_LEAVING, (Do.LEAVE,)),
    (_ASKED, Input.DEPARTS): Step(_LEAVING),
    (_ASKED, Input.WAITED): Step(_DEAF, (Do.DIE,)),
    (_ASKED, Input.LOOP_ENDS): Step(_ENDED),
    (_LEAVING, Input.LOOP_HEARS_INT): Step(_LEAVING, (Do.CANCEL,)),
    (_LEAVING, Input.LOOP_ENDS): Step(_ENDED),
}

#: A worker of `everycore run`, whose program knows nothing of everycore: it is told until it ends.
GUEST: Final[Table[Worker]] = {
    **WORKER,
    (_ENDED, Input.LATE): Step(_ENDED, (Do.EXIT,)),
    (_ENDED, Input.WAITED_LATE): Step(_ENDED, (Do.EXIT,)),
}

# --- one process --------------------------------------------------------------------------------------------

#: Within SAME_REQUEST of one of these, the input is the same request.
_ECHO_OF: Final[Mapping[Input, tuple[Input, ...]]] = {
    Input.TERM: (Input.TERM,),
    Input.INT: (Input.INT,),
    # Ctrl-C in a terminal reaches a worker, and its primary, which asks the worker to leave.
    Input.LOOP_HEARS_INT: (Input.LOOP_HEARS_INT, Input.DEPARTS),
}


@dataclass(slots=True)
class Machine(Generic[S]):
    """One process, as its table has it."""

    table: Table[S]
    stage: S
    _last: dict[Input, float] = field(default_factory=dict)

    def take(self, what: Input, now: float) -> tuple[Do, ...]:
        """`what` has happened, at `now` in seconds. Returns what is to be done, in order."""
        is_echo = any(now - self._last.get(of, float("-inf")) < SAME_REQUEST for of in _ECHO_OF.get(what, ()))
        self._last[what] = now
        if is_echo:
            return ()
        before = self.stage
        step = self.table[before, what]
        if step.after is not before:  # else a signal that comes between these lines would be undone
            self.stage = step.after
        return step.actions


def is_unheard(table: Table[Worker], stage: Worker) -> bool:
    """Whether the signal of a thread that has waited is still to be heard in this stage."""
    if stage is Worker.ENDED:
        return table[stage, Input.WAITED_LATE] != Step(stage)
    return stage in (Worker.WAITING, Worker.MAKING)


def signals_of(table: Table[S]) -> tuple[Input, ...]:
    """The signals that a table names."""
    return tuple(signal for signal in SIGNALS if any(what is signal for _, what in table))
