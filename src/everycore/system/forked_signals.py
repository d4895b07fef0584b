"""The signal handlers that everycore has installed in this process, and that a fork of it must not keep.

A fork inherits Python's handlers, and, before Python 3.12, the descriptor to which the parent's event loop
lets signals be written. A SIGTERM to the child would not end it, and would stop the parent. multiprocessing
ends its children by SIGTERM, and may do so the moment after the fork: these signals are blocked until the
child has its own handlers.
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
#: Signal masks to be restored, by the thread that forks.
_masks: dict[int, set[signal.Signals | int]] = {}


def own(number: int) -> None:
    """The handler that this signal has now is everycore's, or that of a loop which everycore has asked."""
    _ours[number] = signal.getsignal(number)


def handle(number: int, handler: Callable[[int, FrameType | None], object]) -> None:
    """Let `handler` handle this signal. To be called in the main thread."""
    signal.signal(number, handler)
    own(number)


def handle_unused(number: int, handler: Callable[[int, FrameType | None], object]) -> bool:
    """Let `handler` handle this signal, also where it was blocked from outside, if nobody else does.

    Returns whether it does: not where the signal has a handler or is ignored, nor in another thread than the
    main one.
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
        pass  # not the main thread of the main interpreter, so no handler runs in it either
    _after_fork()
    _masks.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
