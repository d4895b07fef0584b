"""Signals that are to wait for a moment."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Final

#: Those that were blocked from outside, and are never to be again at the end of a block.
_heard: set[int] = set()


def hear(numbers: Iterable[int]) -> None:
    """Unblock these signals in this thread, for good: no end of a `held` block blocks them again."""
    _heard.update(numbers)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _heard)


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
    """Hold back these signals from the calling thread. What has come is delivered at the end of the block."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask - _heard)
