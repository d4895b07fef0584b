"""Being woken one at a time: EPOLLEXCLUSIVE, its queue, and the baton that repairs a swallowed wake-up.

The two kernel facilities that make a shared listener fair.

Facts (epoll_ctl(2), fs/eventpoll.c): of those registered with EPOLLEXCLUSIVE the kernel wakes the *first in
the queue* that sits in epoll_wait, always the same one; a worker that is busy does not swallow the wake-up.
EPOLL_CTL_DEL and ADD move an entry to the end of the queue, so idle workers take turns, and ADD looks at the
level, so nothing is missed meanwhile. EXCLUSIVE can be given with ADD only, never with MOD. A worker that
was woken and dies, stops or blocks before it accepts has swallowed the wake-up: the connection waits for
the next one. Hence the baton, a pipe in every worker's epoll: who gets what lies in it looks at the listener
again.

Why a pipe, and not an eventfd: O_NONBLOCK belongs to the open file, and a pipe can be opened anew (proc(5),
/proc/self/fd; fifo(7), O_RDWR). So each process has an open file of its own, and none can make another wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterable
from typing import Final

from everycore.system.descriptors import duplicate

_EXCLUSIVE: Final = select.EPOLLIN | select.EPOLLEXCLUSIVE
#: What lies in the pipe: what an eventfd takes and gives, too.
_TOKEN: Final = (1).to_bytes(8, sys.byteorder)


class ExclusiveRegistration:
    """One descriptor's registration in an event loop's epoll, exclusive and movable.

    The loop has added the descriptor in its own way; this replaces the registration behind its back,
    through a duplicate of the loop's epoll descriptor (the same epoll instance). The loop's tables stay as
    they are.
    """

    def __init__(self, epoll_fd: int, fd: int) -> None:
        self._epoll = select.epoll.fromfd(os.dup(epoll_fd))
        self._fd = fd
        self.is_armed = True
        self._epoll.unregister(fd)
        self._epoll.register(fd, _EXCLUSIVE)

    def disarm(self) -> None:
        """Be woken no more until `rearm`."""
        if self.is_armed:
            self.is_armed = False
            self._unregister()

    def rearm(self) -> None:
        """Go to the end of the queue, or come back to it; woken at once if there is something."""
        if self.is_armed:
            self._unregister()
        self.is_armed = True
        self._epoll.register(self._fd, _EXCLUSIVE)

    def _unregister(self) -> None:
        try:
            self._epoll.unregister(self._fd)
        except (FileNotFoundError, OSError):
            return  # the loop removed it meanwhile

    def close(self) -> None:
        """Let go of the epoll; the registration is the loop's to remove."""
        self._epoll.close()


class Baton:
    """The primary's end: passed on when a wake-up may have been swallowed."""

    def __init__(self) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.fd = _opened_anew(reading)
        except OSError:  # no /proc: all have the same open file, and its mode
            self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        finally:
            os.close(reading)
            os.close(writing)

    def open(self) -> int:
        """A descriptor for a worker, which closes it. Raises OSError."""
        try:
            return _opened_anew(self.fd)
        except FileNotFoundError:
            return duplicate(self.fd)

    def pass_on(self) -> None:
        """Wake one worker to look."""
        pass_baton(self.fd)

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


def _opened_anew(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def pass_baton(fd: int) -> None:
    """Wake the first in the baton's queue; it takes the place of one that is still under way."""
    take_baton(fd)
    with contextlib.suppress(BlockingIOError):  # somebody has put in all it holds: it wakes as it is
        os.write(fd, _TOKEN)


def take_baton(fd: int) -> bool:
    """Whether there was one."""
    try:
        return bool(os.read(fd, len(_TOKEN)))
    except BlockingIOError:
        return False


def is_readable(fd: int) -> bool:
    """Whether `fd` has something, now: for a listener, a connection in its accept queue (poll(2))."""
    return bool(readable((fd,)))


def readable(fds: Iterable[int]) -> list[int]:
    """Those of `fds` that have something now, or whose other end is closed (poll(2))."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(0)]
