"""accept(2) that does not wait, on a file that somebody else can change.

It takes a connection from a listener whose open file other processes have too, a program's socket or one of
systemd's, and returns at once, or, at the very worst, within a second.

O_NONBLOCK belongs to the open file, and accept4(2) has no MSG_DONTWAIT: whoever has a duplicate can make the
call wait. So three things stand against it. Nothing is accepted unless poll(2) shows somebody: the mode does
not matter then. The mode is set anew before each call: it matters if another process accepts from the same
file in between. And an interval timer interrupts a call that waits all the same, because another process set
the mode in that very moment.
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

#: Seconds between two looks at a call that is under way.
TICK: Final = 0.5

#: When the call under way began (time.monotonic); 0: there is none.
_began = 0.0
_watchers = 0


def watched_accept(sock: socket.socket) -> tuple[int, Any]:
    """One connection: its descriptor and the peer's address. Raises OSError as accept(2) does, EAGAIN too."""
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
    # Never right behind the call, when it may have returned a descriptor that nobody would close then.
    if _began and time.monotonic() - _began >= TICK:
        raise os_error(errno.EINTR)


class Watch:
    """Accepts for one listener whose open file others have. From its first call on a tick looks after it."""

    def __init__(self) -> None:
        self._is_on = False

    def accept(self, sock: socket.socket) -> tuple[int, Any]:
        """As `watched_accept`."""
        if not self._is_on:
            self._is_on = True
            _add_watcher()
        return watched_accept(sock)

    def close(self) -> None:
        """The end of the listener."""
        if self._is_on:
            self._is_on = False
            _remove_watcher()


def _add_watcher() -> None:
    """Start ticking, if SIGALRM is free and this is the main thread."""
    global _watchers
    _watchers += 1
    is_free = signal.getitimer(signal.ITIMER_REAL)[0] == 0
    if _watchers == 1 and is_free and forked_signals.handle_unused(signal.SIGALRM, _tick):
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)


def _remove_watcher() -> None:
    """With the last one, SIGALRM has its default back."""
    global _watchers
    _watchers -= 1
    is_main = threading.current_thread() is threading.main_thread()
    if not _watchers and is_main and signal.getsignal(signal.SIGALRM) is _tick:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
