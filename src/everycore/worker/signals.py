"""A worker's edge of `core.stopping`: it handles SIGTERM and SIGINT as the table of its kind says.

Python runs a handler in the main thread. The handler can't wait there, because that very thread may be
serving the open connection. Nor can it use the link, because that thread may be using it. So a helper thread
waits, and then repeats the signal. Invariant: the stage changes in the main thread alone. This module does
not import asyncio: a program of threads does not need it.
"""

from __future__ import annotations

import _thread
import faulthandler
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any, Final, Protocol

from everycore.core import stopping
from everycore.core.stopping import StopAction, StopInput, WorkerStage
from everycore.errors import consists_of
from everycore.held_signals import held, start_helper, would_be_dropped
from everycore.system import forked_signals, inherited
from everycore.system.stacks import STACKS

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
#: How often a worker without an event loop of everycore checks whether its last connection has ended, in
#: seconds.
_LOOK: Final = 0.05
#: Seconds between two signals to a main thread that the first one has not ended.
AGAIN: Final = 0.1
#: How long a loop has for its last turns, in seconds. A program that handles SIGTERM itself may send it again
#: when it has finished, as uvicorn does. SystemExit would break off the loop's last turns with a traceback.
_LAST_TURNS: Final = 0.5
#: Functions by which a process sends a signal to itself. Python calls the handler before they return.
_SENDING: Final = frozenset({"raise_signal", "kill", "killpg", "pthread_kill", "pidfd_send_signal"})
#: How many turns the program's own loop gets to accept and count the connections that it had been given when
#: it was asked to leave.
_TURNS: Final = 8
#: How long a main thread whose loop does not react has to end by the signal, in seconds. Then the helper
#: thread sends SIGKILL.
_LAST_WORD: Final = 1.0

# The originals, from before gevent replaced them.
_make_lock: Final = _thread.allocate_lock
_sleep: Final = time.sleep

_LOOP_HEARS: Final = {signal.SIGTERM: StopInput.LOOP_HEARS_TERM, signal.SIGINT: StopInput.LOOP_HEARS_INT}


class Loop(Protocol):
    """The part of an event loop that this module needs."""

    def add_signal_handler(self, sig: int, callback: Callable[..., object], /, *args: Any) -> None:
        """Call `callback` when the loop turns after a signal."""


class WorkerSignals:
    """How one worker handles SIGTERM and SIGINT.

    grace: how long its work may take, in seconds. tell_primary: reports that the worker leaves; it may be
    called from any thread and never raises. is_at_work: returns whether a connection is open.
    """

    def __init__(
        self, grace: float, tell_primary: Callable[[], None], is_at_work: Callable[[], bool]
    ) -> None:
        self._machine = stopping.Machine(stopping.WORKER, WorkerStage.PROGRAM)
        self._grace = grace
        self._tell_primary = tell_primary
        self._is_at_work = is_at_work
        #: Whether a helper thread has finished waiting: the next signal is the one that it repeats.
        self._has_waited = False
        #: The program's own loop that was running when the last signal came, and whether one of its tasks
        #: sent that signal.
        self._other_loop: Any = None
        self._is_of_task = False
        #: Released when the main thread could not take the signal that a helper thread repeated.
        self._is_put_off = _make_lock()
        #: The handlers from before the loop of `everycore.run`, and that loop's own.
        self._previous: dict[int, Any] = {}
        self._loops_own: dict[int, Any] = {}
        self._steps: dict[StopAction, Callable[[int, FrameType | None], object]] = {
            StopAction.WAIT: self._wait_elsewhere,
            StopAction.WAIT_HERE: lambda _number, _frame: self._wait(self._begin_to_leave()),
            StopAction.EXIT: self._exit,
            # If no thread can be started, the primary's SIGKILL ends a loop that does not react.
            StopAction.GUARD: lambda number, _: start_helper(self._guard, number),
            StopAction.DIE: self._die,
        }

    # --- what happens to the process ----------------------------------------------------------------------

    def install(self, *, ignores_interrupt: bool, blocked: Collection[int] = ()) -> None:
        """Handle the signals that have no handler yet. `ignores_interrupt`: ignore SIGINT.

        blocked: the signals that this process has blocked because its primary has. They are unblocked. A
        signal that is blocked for another reason stays blocked: the launcher holds SIGTERM back until the
        program begins.
        """
        if not _is_main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            forked_signals.handle(signal.SIGTERM, self)
        # Ctrl-C reaches the whole process group: without this, every worker that is still importing its
        # program would print a traceback.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            if ignores_interrupt:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            else:
                forked_signals.handle(signal.SIGINT, self)
        inherited.hear(number for number in SIGNALS if number in blocked)

    def be_guest(self) -> None:
        """Behave as a worker of `everycore run`.

        Python's own handler takes SIGINT there, as in a lone process: such workers are not in the terminal's
        process group.
        """
        self._machine.table = stopping.GUEST
        if signal.getsignal(signal.SIGINT) is self:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def loop_begins(self) -> None:
        """From now on `everycore.run`, or a program that is sure to call it, runs this process."""
        if _is_main_thread():
            with held(*SIGNALS):
                self._take(StopInput.LOOP_BEGINS)

    def loop_runs(self, loop: Loop, leave: Callable[[], object], cancel: Callable[[], object]) -> None:
        """`everycore.run` has begun `main` on `loop`: `leave` begins the end, `cancel` cancels `main`."""
        self._steps[StopAction.LEAVE] = lambda _number, _frame: leave()
        self._steps[StopAction.CANCEL] = lambda _number, _frame: cancel()
        if not _is_main_thread():
            return
        with held(*SIGNALS):
            for number in SIGNALS:
                self._previous[number] = signal.getsignal(number)
                loop.add_signal_handler(number, self._take, _LOOP_HEARS[number])
                # Run before the loop's own handler, which only wakes the loop: a loop that is blocked in
                # Python would outlive every signal but SIGKILL.
                self._loops_own[number] = signal.getsignal(number)
                forked_signals.handle(number, self)
            self._take(StopInput.LOOP_RUNS)

    def departs(self) -> None:
        """The worker has begun to leave, whoever asked."""
        if _is_main_thread():
            self._take(StopInput.DEPARTS)

    def loop_ends(self) -> None:
        """The loop of `everycore.run` is closed, and its handlers with it."""
        if not _is_main_thread():
            return
        with held(*SIGNALS):
            for number, previous in self._previous.items():
                signal.signal(number, previous)
            self._previous.clear()
            self._loops_own.clear()
            self._take(StopInput.LOOP_ENDS)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. Python calls this in the main thread."""
        if callable(loops_own := self._loops_own.get(number)):
            loops_own(number, frame)
        self._other_loop, is_in_task = _running_loop()
        self._is_of_task = is_in_task and _sends_signals(frame)
        if self._has_waited and would_be_dropped(frame):
            # The helper thread repeats the signal, and by then the main thread runs other code.
            if self._is_put_off.locked():
                self._is_put_off.release()
            return
        self._take(self._meaning_of(number), number, frame)

    def is_interrupt(self, error: BaseException) -> bool:
        """Whether `error` is the outcome of `StopAction.EXIT`."""
        return self._has_waited and consists_of(error, lambda inner: isinstance(inner, KeyboardInterrupt))

    # --- decisions ----------------------------------------------------------------------------------------

    def _meaning_of(self, number: int) -> StopInput:
        if self._has_waited:
            return StopInput.WAITED_LATE if _has_come_to_its_end() else StopInput.WAITED
        if _has_come_to_its_end():
            return StopInput.LATE
        return StopInput.INT if number == signal.SIGINT else StopInput.TERM

    def _take(self, what: StopInput, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        for action in self._machine.take(what, time.monotonic()):
            self._steps[action](number, frame)

    # --- waiting ------------------------------------------------------------------------------------------

    def _wait_elsewhere(self, number: int, frame: FrameType | None) -> None:
        if start_helper(self._wait_and_repeat, number):
            return
        if not self._wait_by_alarm(number):
            self._has_waited = True
            self(number, frame)

    def _wait_by_alarm(self, number: int) -> bool:
        """Wait by SIGALRM, where no thread can be started (RLIMIT_NPROC, pids.max).

        Returns False if the program uses SIGALRM itself. The primary is not told, because the main thread may
        be using the link. If the primary asked this worker to leave, it knows already.
        """
        if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL or signal.getitimer(signal.ITIMER_REAL)[0]:
            return False
        deadline = time.monotonic() + self._grace

        def look(_: int, frame: FrameType | None) -> None:
            if would_be_dropped(frame) or (self._is_at_work() and time.monotonic() < deadline):
                return
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            self._has_waited = True
            self(number, frame)

        signal.signal(signal.SIGALRM, look)
        forked_signals.own(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, _LOOK, _LOOK)
        return True

    # --- in a helper thread -------------------------------------------------------------------------------

    def _wait_and_repeat(self, number: int) -> None:
        deadline = self._begin_to_leave()
        self._wait(deadline)
        if self._machine.table is stopping.GUEST and self._other_loop is not None:
            while time.monotonic() < deadline:
                self._let_turn(self._other_loop)
                if not self._wait(deadline):
                    break  # otherwise it was accepting a connection that had not been counted yet
        put_off = self._is_put_off
        put_off.acquire(blocking=False)
        # Repeat the signal: one that comes just before a system call does not interrupt that call.
        while stopping.is_unheard(self._machine.table, self._machine.stage):
            handler = signal.getsignal(number)
            os.kill(os.getpid(), number)
            if handler is not self:
                return  # the program has a handler of its own, which gets the first signal
            put_off.acquire(timeout=AGAIN)

    def _begin_to_leave(self) -> float:
        """Tell the primary. Returns when the grace is over."""
        deadline = time.monotonic() + self._grace
        self._tell_primary()
        return deadline

    def _wait(self, deadline: float) -> bool:
        """Wait until no connection is open, or until the deadline. Returns whether one was open at first."""
        was_at_work = False
        while self._is_at_work():
            was_at_work = True
            if time.monotonic() >= deadline:
                break
            _sleep(_LOOK)  # an ordinary socket does not report when it is closed
        self._has_waited = True
        return was_at_work

    def _let_turn(self, loop: Any) -> None:
        """Let the program's own loop turn a few times.

        If one of the loop's tasks sent the signal, the program knew already and is about to end. The loop
        then gets a fixed time.
        """
        if self._is_of_task:
            _sleep(_LAST_TURNS)
            return
        has_turned = _make_lock()
        has_turned.acquire()

        def turn(left: int) -> None:
            if left:
                loop.call_soon(turn, left - 1)
            else:
                has_turned.release()

        try:
            loop.call_soon_threadsafe(turn, _TURNS)
        except RuntimeError:  # it is closed
            return
        has_turned.acquire(timeout=_LAST_TURNS)  # the loop may be blocked

    def _guard(self, number: int) -> None:
        _sleep(self._grace)
        if self._machine.stage is not WorkerStage.ASKED:
            return
        self._has_waited = True
        os.kill(os.getpid(), number)
        _sleep(_LAST_WORD)
        if self._machine.stage in (WorkerStage.ASKED, WorkerStage.DEAF):  # the main thread is blocked in C
            os.kill(os.getpid(), signal.SIGKILL)

    # --- in the main thread -------------------------------------------------------------------------------

    def _exit(self, _: int, frame: FrameType | None) -> None:
        interrupted: Any = signal.getsignal(signal.SIGINT)
        if str(getattr(interrupted, "__module__", "")).startswith("trio."):
            interrupted(signal.SIGINT, frame)  # trio raises KeyboardInterrupt in its main task
            return
        _silence_python()
        raise SystemExit(0)

    def _die(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def print_stacks_when_asked(fd: int = 2) -> None:
    """Let the primary's signal print the stacks of all threads to `fd`, even of a blocked one.

    The signal has no other effect.
    """
    faulthandler.register(STACKS, file=fd, all_threads=True)
    inherited.hear((STACKS,))


def print_stacks_at_quit() -> None:
    """Let SIGQUIT print the stacks of all threads, even of a blocked one, before it ends this process.

    A program under `everycore run` finds the signal in its default state: Python does not see this handler.
    """
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL:
        faulthandler.register(signal.SIGQUIT, file=2, all_threads=True, chain=True)
        inherited.hear((signal.SIGQUIT,))


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _has_come_to_its_end() -> bool:
    """Whether the main thread has finished the program and waits for other threads."""
    return not threading.main_thread().is_alive()


def _running_loop() -> tuple[Any, bool]:
    """The asyncio loop that runs in this thread, or None, and whether one of its tasks is running."""
    asyncio = sys.modules.get("asyncio")  # not imported: this may run in a signal handler
    try:
        if asyncio is not None:
            return asyncio.get_running_loop(), asyncio.current_task() is not None
    except (RuntimeError, AttributeError):  # no loop runs, or asyncio is being imported
        pass
    return None, False


def _sends_signals(frame: FrameType | None) -> bool:
    """Whether the code that the signal interrupted may have sent it."""
    return frame is not None and not _SENDING.isdisjoint(frame.f_code.co_names)


def _silence_python() -> None:
    """Keep Python from reporting the SystemExit that is about to be raised where no program expects it."""
    if _has_come_to_its_end():
        # SystemExit ends the wait for other threads, but Python would print a traceback.
        sys.unraisablehook = _silent_on_exit(sys.unraisablehook)
    # A program that was about to run its coroutine has made no mistake. A lone process would die silently.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _silent_on_exit(tell: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda what: None if what.exc_type is SystemExit else tell(what)
