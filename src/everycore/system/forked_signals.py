"""The signal handlers that everycore has installed in this process, and that a fork of it must not keep.

A fork inherits Python's handlers. Before Python 3.12 it also inherits the descriptor to which the parent's
event loop lets signals be written. A SIGTERM to the child would not end it, and would stop the parent.
multiprocessing ends its children by SIGTERM, perhaps right after the fork, so these signals are blocked until
the child has its own handlers.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from everycore.system import inherited

_DEFAULTS: Final[dict[int, Any]] = {signal.SIGINT: signal.default_int_handler}
_ours: dict[int, Any] = {}
#: The signal mask to be restored, for each thread that forks.
_masks: dict[int, set[signal.Signals | int]] = {}


def own(number: int) -> None:
    """Record that the current handler of this signal is everycore's, or that of a loop which it asked."""
    _ours[number] = signal.getsignal(number)


def handle(number: int, handler: Callable[[int, FrameType | None], object]) -> None:
    """Let `handler` handle this signal. Must be called in the main thread."""
    signal.signal(number, handler)
    own(number)


def handle_unused(number: int, handler: Callable[[int, FrameType | None], object]) -> bool:
    """Let `handler` handle this signal, even one that was blocked at the start, unless it is in use.

    Returns whether it does. It does not if the signal has a handler or is ignored, nor outside the main
    thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(number) is not signal.SIG_DFL:
        return False
    handle(number, handler)
    inherited.hear((number,))
    return True


def _before_fork() -> None:
    if _ours:
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _ours)


def _after_fork() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    mine = [number for number, handler in _ours.items() if signal.getsignal(number) is handler]
    _ours.clear()
    try:
        if mine:
            signal.set_wakeup_fd(-1)
        for number in mine:
            signal.signal(number, _DEFAULTS.get(number, signal.SIG_DFL))
    except ValueError:
        pass  # outside the main thread of the main interpreter no handler runs anyway
    _after_fork()
    _masks.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
