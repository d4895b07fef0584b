"""Holding signals back for a moment, and threads that receive none."""

from __future__ import annotations

import _thread
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Final

# The original, from before gevent replaced it: a signal handler can't wait for a greenlet to start.
_start_thread: Final = _thread.start_new_thread

#: Code that C calls and whose exceptions C drops. An exception from a signal handler has no effect there.
DROPS_EXCEPTIONS: Final[set[CodeType]] = set()


def would_be_dropped(frame: FrameType | None) -> bool:
    """Whether an exception that is raised in `frame` would be dropped by one of its callers."""
    while frame is not None:
        if frame.f_code in DROPS_EXCEPTIONS:
            return True
        frame = frame.f_back
    return False


@contextmanager
def held(*numbers: signal.Signals) -> Iterator[None]:
    """Hold these signals back from the calling thread. Pending ones are delivered at the end of the block.

    A signal that was blocked before stays as it is: code that unblocks it within the block leaves it
    unblocked.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(numbers) - before)


def start_helper(work: Callable[..., object], *args: Any) -> bool:
    """Call `work(*args)` in a thread to which neither SIGINT nor SIGTERM is delivered.

    Those signals are for the main thread, which may hold them back for a moment. Returns False if the system
    can't start a thread: RLIMIT_NPROC, pids.max, memory.
    """
    with held(signal.SIGINT, signal.SIGTERM):  # a thread inherits the mask of the thread that starts it
        try:
            _start_thread(work, args)
        except RuntimeError:
            return False
    return True
