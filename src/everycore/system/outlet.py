"""A text stream that never waits for its reader.

It writes what can be written at once, and keeps the rest in a bounded buffer (which takes at least one line,
however long). What does not fit is dropped. The drops are counted, and reported in the stream itself once the
reader reads again. No system call here waits, whatever other processes do with the same open file. What was
kept is written whole and in order.

O_NONBLOCK belongs to the open file, which a log shares with other processes: it can be neither set here nor
relied upon. So a pipe and a terminal are reopened (proc(5), /proc/self/fd), which makes an open file of
everycore's own, and a socket is written with MSG_DONTWAIT. If a pipe cannot be reopened (without /proc, or if
it belongs to another user, as in a container whose process is not root), it is polled for room first. A write
for which a file system waits is up to the disk, and is not covered.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import socket
import stat
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

from everycore.held_signals import held
from everycore.system.descriptors import duplicate

#: The most bytes that wait.
ROOM: Final = 256 * 1024
#: pipe(7): writes of up to this size happen whole or not at all, and a pipe that poll(2) reports has room for
#: one.
_PIPE_BUF: Final = select.PIPE_BUF

Writer = Callable[[bytes], int]


def told_of_dropped(count: int) -> str:
    """The log's report of so many dropped lines."""
    return f"{count} lines are missing here: the reader of this log was too slow"


class Outlet(io.TextIOBase):
    """Writes to a duplicate of `fd`. An error of a write that need not wait is raised, as by any file."""

    def __init__(self, fd: int, *, room: int = ROOM, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        self._room = room
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        #: The line that waits was written in part; the last line was written in part and its rest dropped (a
        #: full disk).
        self._is_begun = self._is_torn = False
        self._lock = threading.RLock()
        #: Makes the line that reports how many lines were dropped, with its newline.
        self.line_of_dropped: Callable[[int], str] = lambda count: f"everycore: {told_of_dropped(count)}\n"
        self._fd, self._write = _open(fd)
        self._is_terminal = os.isatty(self._fd)
        _all.add(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As `io.TextIOWrapper.encoding`."""
        return self._encoding

    @property
    def waits(self) -> bool:
        """Whether some text could not be written yet."""
        return bool(self._waiting)

    @property
    def dropped(self) -> int:
        """The number of lines dropped since the last report."""
        return self._dropped

    def fileno(self) -> int:
        """The descriptor of the duplicate, which becomes writable when there is room."""
        return self._fd

    def isatty(self) -> bool:
        """As `io.IOBase.isatty`."""
        return self._is_terminal

    def writable(self) -> bool:
        """As `io.IOBase.writable`."""
        return True

    def write(self, text: str) -> int:
        """Write, keep or drop `text`. Raises OSError if the reader is gone for good (EPIPE, EIO)."""
        data = text.encode(self._encoding, "backslashreplace")
        with self._lock:
            if self._waiting and self._size + len(data) > self._room:
                self._dropped += max(data.count(b"\n"), 1)
            elif data:
                if self._is_torn:
                    data = b"\n" + data
                self._waiting.append(data)
                self._size += len(data)
            if not self.push():
                self._on_waiting()
        return len(text)

    def push(self) -> bool:
        """Write what is kept, as far as there is room. Returns whether all is written. Raises as `write`."""
        with self._lock:
            while self._waiting:
                data = self._waiting[0]
                try:
                    written = self._attempt(data)
                except BlockingIOError:
                    return False
                except OSError:
                    self._is_torn = self._is_torn or self._is_begun
                    self._is_begun = False
                    self._waiting.clear()
                    self._size = 0
                    raise
                self._size -= written
                self._is_torn = False
                self._is_begun = written < len(data)
                if self._is_begun:
                    self._waiting[0] = data[written:]
                    continue
                self._waiting.popleft()
                if self._dropped and not self._waiting:
                    self._tell_dropped()
            return True

    def _tell_dropped(self) -> None:
        data = self.line_of_dropped(self._dropped).encode(self._encoding, "backslashreplace")
        self._waiting.append(data)
        self._size += len(data)
        self._dropped = 0

    def _attempt(self, data: bytes) -> int:
        if not self._is_terminal:
            return self._write(data)
        with held(signal.SIGTTOU):  # with `stty tostop` it would stop a background process (termios(3))
            return self._write(data)

    def _on_waiting(self) -> None:
        """Called when text waits. A subclass with an event loop calls `push` when `fileno()` is writable."""

    def finish(self, patience: float) -> None:
        """Wait up to `patience` seconds for the reader, then close."""
        deadline = time.monotonic() + patience
        poller = select.poll()
        with contextlib.suppress(OSError):
            poller.register(self._fd, select.POLLOUT)
            while not self.push() and (left := deadline - time.monotonic()) > 0:
                poller.poll(left * 1000)
        self.close()

    def close(self) -> None:
        """Close the duplicate. Text that is kept is dropped."""
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            self._waiting.clear()
            os.close(fd)
        super().close()

    def _forked(self) -> None:
        """In a forked child: the parent writes what is kept, and one of its threads may hold the lock."""
        self._lock = threading.RLock()
        self._waiting.clear()
        self._size = self._dropped = 0


_all: weakref.WeakSet[Outlet] = weakref.WeakSet()


def _forked() -> None:
    for outlet in tuple(_all):
        outlet._forked()


os.register_at_fork(after_in_child=_forked)


# --- the kinds of files -------------------------------------------------------------------------------------


def _open(fd: int) -> tuple[int, Writer]:
    """Return a descriptor of everycore's own for that file, and a function that writes without waiting."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        own = duplicate(fd)
        return own, lambda data: _send(own, data)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            anew = os.open(f"/proc/self/fd/{fd}", flags)
            return anew, lambda data: os.write(anew, data)
        own = duplicate(fd)
        return own, lambda data: _write_if_room(own, data)
    own = duplicate(fd)  # not reopened: it shares the position with the other writers of this file
    return own, lambda data: os.write(own, data)


def _send(fd: int, data: bytes) -> int:
    sock = socket.socket(fileno=fd)
    try:
        return sock.send(data, socket.MSG_DONTWAIT)
    finally:
        sock.detach()


def _write_if_room(fd: int, data: bytes) -> int:
    """Write to a pipe that other processes write to as well. Raises BlockingIOError.

    This uses pwritev2(2) with RWF_NOWAIT, which pipes support since Linux 6.4. On an older kernel another
    process may fill the pipe between poll(2) and write(2), and then this write waits for the reader.
    """
    part = data[:_PIPE_BUF]
    try:
        return os.pwritev(fd, [part], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        raise
    except (OSError, AttributeError):  # an old kernel, or another system
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        if not poller.poll(0):
            raise BlockingIOError from None
        return os.write(fd, part)
