"""How a program under `everycore run` is told to end, if it has no handler of SIGTERM.

Job: what `boot.Terminator` does, for programs of all kinds. Invariant: SIGINT is Python's own, as for a lone
process: workers of the command line are not in the terminal's process group. Must not import asyncio, nor the
primary's side.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

from everycore.worker.boot import Post, Terminator


class ProgramTerminator(Terminator):
    """Ends trio as trio wants to be ended, and says nothing of a main thread that had ended already."""

    def end(self, frame: FrameType | None) -> None:
        """In the main thread: end the program."""
        interrupted: Any = signal.getsignal(signal.SIGINT)
        if str(getattr(interrupted, "__module__", "")).startswith("trio."):
            interrupted(signal.SIGINT, frame)  # to its main task, as KeyboardInterrupt
            return
        # While the interpreter waits for threads, SystemExit ends the waiting, but not without a traceback.
        tell = sys.unraisablehook
        sys.unraisablehook = lambda what: None if what.exc_type is SystemExit else tell(what)
        raise SystemExit(0)

    def is_interrupt(self, error: BaseException) -> bool:
        """Whether `error` is what became of `end`."""
        if isinstance(error, BaseExceptionGroup):
            return all(map(self.is_interrupt, error.exceptions))
        return self.is_over and isinstance(error, KeyboardInterrupt)


def install_terminator(post: Post) -> ProgramTerminator:
    """Take the place of the handlers of `worker.boot`, where they are."""
    terminator = ProgramTerminator(post)
    if threading.current_thread() is threading.main_thread():
        if isinstance(signal.getsignal(signal.SIGTERM), Terminator):
            signal.signal(signal.SIGTERM, terminator)
        if isinstance(signal.getsignal(signal.SIGINT), Terminator):
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return terminator
