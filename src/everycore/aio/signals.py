"""The signals that an event loop handles for everycore, and what handled them before."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from typing import Any

from everycore.system import forked_signals, inherited


def install(
    loop: asyncio.AbstractEventLoop, handlers: Mapping[signal.Signals, Callable[[], object]]
) -> dict[signal.Signals, Any]:
    """Have `loop` call these handlers, also for signals that were blocked from outside. No fork keeps them.

    Returns the previous handler of each signal, for `restore`. Outside the main thread signals are not
    handled: nothing is changed, and the result is empty.
    """
    previous: dict[signal.Signals, Any] = {}
    for number, handler in handlers.items():
        before = signal.getsignal(number)
        try:
            loop.add_signal_handler(number, handler)
        except (ValueError, RuntimeError):  # not the main thread
            break
        forked_signals.own(number)
        previous[number] = before
    inherited.hear(previous)
    return previous


def restore(loop: asyncio.AbstractEventLoop, previous: Mapping[signal.Signals, Any]) -> None:
    """Take these signals back from `loop`. Each gets its handler in `previous` again."""
    # Blocked signals can't arrive between these calls. Pending ones that are ignored by then are discarded.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, previous)
    for number, handler in previous.items():
        loop.remove_signal_handler(number)
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
