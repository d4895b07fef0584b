"""accept(2) that does not wait, on a file that another process can change.

It takes a connection from a listener whose open file other processes have too, such as a program's socket or
one of systemd's. It returns at once or, at the very worst, within a second.

O_NONBLOCK belongs to the open file, and accept4(2) has no MSG_DONTWAIT: every process with a duplicate can
make the call wait. Three measures prevent that. Nothing is accepted unless poll(2) reports a connection: then
the mode does not matter. The mode is set anew before each call: it matters if another process accepts from
the same file in between. And an interval timer interrupts a call that waits all the same, because another
process has changed the mode in that very moment.
"""

from __future__ import annotations

import errno
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any, Final

from everycore.foreign.socket_internals import accept
from everycore.kernel import os_error
from everycore.system import forked_signals
from everycore.system.wakeups import is_readable

#: Seconds between two checks of a call that is under way.
TICK: Final = 0.5

#: When the call under way began (time.monotonic); 0 without one.
_began = 0.0
_watchers = 0


def watched_accept(sock: socket.socket) -> tuple[int, Any]:
    """Accept one connection: its descriptor and the peer's address. Raises as accept(2), EAGAIN too."""
    global _began
    if not is_readable(sock.fileno()):
        raise os_error(errno.EAGAIN)
    sock.setblocking(False)
    _began = time.monotonic()
    try:
        return accept(sock)
    finally:
        _began = 0.0


def _tick(_number: int, _frame: FrameType | None) -> None:
    # Never right after the call, when it may have returned a descriptor that nothing would close.
    if _began and time.monotonic() - _began >= TICK:
        raise os_error(errno.EINTR)


class Watch:
    """Accepts for one listener whose open file other processes have. The tick starts with the first call."""

    def __init__(self) -> None:
        self._is_on = False

    def accept(self, sock: socket.socket) -> tuple[int, Any]:
        """As `watched_accept`."""
        if not self._is_on:
            self._is_on = True
            _add_watcher()
        return watched_accept(sock)

    def close(self) -> None:
        """Stop the tick for this listener."""
        if self._is_on:
            self._is_on = False
            _remove_watcher()


def _add_watcher() -> None:
    """Start the tick, if SIGALRM is free and this is the main thread."""
    global _watchers
    _watchers += 1
    is_free = signal.getitimer(signal.ITIMER_REAL)[0] == 0
    if _watchers == 1 and is_free and forked_signals.handle_unused(signal.SIGALRM, _tick):
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)


def _remove_watcher() -> None:
    """With the last listener, restore the default of SIGALRM."""
    global _watchers
    _watchers -= 1
    is_main = threading.current_thread() is threading.main_thread()
    if not _watchers and is_main and signal.getsignal(signal.SIGALRM) is _tick:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
