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
from typing import Any, Final

_DEFAULTS: Final[dict[int, Any]] = {signal.SIGINT: signal.default_int_handler}
_ours: dict[int, Any] = {}
#: Signal masks to be restored, by the thread that forks.
_masks: dict[int, set[signal.Signals | int]] = {}


def own(number: int) -> None:
    """The handler that this signal has now is everycore's, or that of a loop which everycore has asked."""
    _ours[number] = signal.getsignal(number)


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
