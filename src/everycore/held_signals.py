"""Signals that are to wait for a moment."""

from __future__ import annotations

import _thread
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Final

# As it was before gevent replaced it: a signal handler can't wait for a greenlet to start.
_start_thread: Final = _thread.start_new_thread

#: Code that C calls and whose exceptions it drops: what a signal's handler raises there ends nothing.
DROPS_EXCEPTIONS: Final[set[CodeType]] = set()


def would_be_dropped(frame: FrameType | None) -> bool:
    """Whether an exception that is raised in `frame` goes no further than to code that drops it."""
    while frame is not None:
        if frame.f_code in DROPS_EXCEPTIONS:
            return True
        frame = frame.f_back
    return False


@contextmanager
def held(*numbers: signal.Signals) -> Iterator[None]:
    """Hold back these signals from the calling thread. What has come is delivered at the end of the block.

    A signal that was blocked before is left alone: whoever unblocks it within the block has it unblocked.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(numbers) - before)


def start_helper(work: Callable[..., object], *args: Any) -> bool:
    """Call `work(*args)` in a thread to which neither SIGINT nor SIGTERM is delivered.

    These are for the main thread, which may hold them back for a moment. Returns False where the system has
    no thread for us: RLIMIT_NPROC, pids.max, memory.
    """
    with held(signal.SIGINT, signal.SIGTERM):  # a thread begins with the mask of the one that starts it
        try:
            _start_thread(work, args)
        except RuntimeError:
            return False
    return True
