"""How a worker that has more than `boot.Terminator` to end is ended by a signal.

Job: two of its kind. `ProgramTerminator`: what it does, for programs of all kinds under `everycore run`;
`LastResort`: a worker whose loop hears signals, and is blocked. Invariant: SIGINT is Python's own under
`everycore run`, as for a lone process: workers of the command line are not in the terminal's process group.
Must not import asyncio, nor the primary's side.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from everycore.system import forked_signals
from everycore.worker.boot import AGAIN, Post, Terminator, sleep, start_thread

#: A program that handles SIGTERM itself may send it again when it has finished, as uvicorn does: it is then
#: in the last turns of its loop, which SystemExit would break off with a traceback. Seconds.
_LAST_TURNS: Final = 0.5
#: The main thread has so long to end by a signal, before it is SIGKILL. Seconds.
_LAST_WORD: Final = 1.0


class ProgramTerminator(Terminator):
    """Ends trio as trio wants it, and a program whose main thread waits for threads that never end."""

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        self._in_loop = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM has come."""
        self._in_loop = _runs_event_loop()
        if not self.has_helper and _has_come_to_its_end():
            # Then no thread can be started any more (Python 3.12), and there is no need to.
            self.wait()
            self.end(frame)
        else:
            super().__call__(number, frame)

    def end(self, frame: FrameType | None) -> None:
        """In the main thread: end the program."""
        waits = _has_come_to_its_end()
        if self._has_heard and not waits:
            return  # it is at its last things
        self._has_heard = True
        interrupted: Any = signal.getsignal(signal.SIGINT)
        if str(getattr(interrupted, "__module__", "")).startswith("trio."):
            interrupted(signal.SIGINT, frame)  # to its main task, as KeyboardInterrupt
            return
        if waits:
            # SystemExit ends the waiting, but not without a traceback.
            sys.unraisablehook = _silent_on_exit(sys.unraisablehook)
        raise SystemExit(0)

    def _leave(self, number: int) -> None:
        self.wait()
        if self._in_loop:
            sleep(_LAST_TURNS)
        os.kill(os.getpid(), number)
        while signal.getsignal(number) is self:
            sleep(AGAIN)
            os.kill(os.getpid(), number)

    def is_interrupt(self, error: BaseException) -> bool:
        """Whether `error` is what became of `end`."""
        if isinstance(error, BaseExceptionGroup):
            return all(map(self.is_interrupt, error.exceptions))
        return self.is_over and isinstance(error, KeyboardInterrupt)


class LastResort:
    """SIGTERM and SIGINT once the grace is over, and the loop of the worker has not heard them.

    A loop hears signals when it turns: one that is blocked would outlive every `kill` but SIGKILL. Python's
    own handlers run even so, between two instructions of the main thread; if that stands still in C, SIGKILL
    is what is left.
    """

    def __init__(self, grace: float, has_heard: Callable[[], bool]) -> None:
        self._grace = grace
        self._has_heard = has_heard
        self._loops_own: dict[int, Any] = {}
        self._waits = False
        self._is_over = False

    def install(self, number: int) -> None:
        """Come before the handler of the loop, which wakes it."""
        self._loops_own[number] = signal.getsignal(number)
        signal.signal(number, self)
        forked_signals.own(number)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal has come."""
        if self._is_over:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if callable(loops_own := self._loops_own[number]):
            loops_own(number, frame)
        if not self._waits:
            self._waits = True
            start_thread(self._wait, (number,))

    def _wait(self, number: int) -> None:
        sleep(self._grace)
        if not self._has_heard():
            self._is_over = True
            os.kill(os.getpid(), number)
            sleep(_LAST_WORD)
            os.kill(os.getpid(), signal.SIGKILL)


def _has_come_to_its_end() -> bool:
    """Whether the main thread is done with the program and waits for other threads."""
    return not threading.main_thread().is_alive()


def _runs_event_loop() -> bool:
    """Whether asyncio runs a loop in this thread; uvloop's is one of these."""
    asyncio = sys.modules.get("asyncio")  # not imported here: this may be a signal handler
    try:
        return asyncio is not None and asyncio.get_running_loop() is not None
    except (RuntimeError, AttributeError):  # none; or asyncio is being imported
        return False


def _silent_on_exit(tell: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda what: None if what.exc_type is SystemExit else tell(what)


def install_terminator(post: Post) -> ProgramTerminator:
    """Take the place of the handlers of `worker.boot`, where they are."""
    terminator = ProgramTerminator(post)
    if threading.current_thread() is threading.main_thread():
        if isinstance(signal.getsignal(signal.SIGTERM), Terminator):
            signal.signal(signal.SIGTERM, terminator)
            forked_signals.own(signal.SIGTERM)
        if isinstance(signal.getsignal(signal.SIGINT), Terminator):
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return terminator
