"""Being woken one at a time: EPOLLEXCLUSIVE, its queue, and the baton that repairs a swallowed wake-up.

These two kernel facilities make a shared listener fair.

Facts (epoll_ctl(2), fs/eventpoll.c): among the epoll instances registered with EPOLLEXCLUSIVE, the kernel
wakes the *first in the queue* that sits in epoll_wait, always the same one. A busy worker does not swallow
the wake-up. EPOLL_CTL_DEL and ADD move an entry to the end of the queue, so idle workers take turns, and ADD
checks the level, so nothing is missed meanwhile. EXCLUSIVE can be given with ADD only, never with MOD. A
worker that was woken and dies, stops or blocks before it accepts has swallowed the wake-up: the connection
waits for the next one. Hence the baton, a pipe in every worker's epoll: the worker that reads the token from
it checks the listener again.

Why a pipe, and not an eventfd: O_NONBLOCK belongs to the open file, and a pipe can be reopened (proc(5),
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
#: What is written to the pipe. An eventfd takes and gives the same.
_TOKEN: Final = (1).to_bytes(8, sys.byteorder)


class ExclusiveRegistration:
    """One descriptor's registration in an event loop's epoll, exclusive and movable.

    The loop has added the descriptor in its own way. This replaces the registration without the loop's
    knowledge, through a duplicate of the loop's epoll descriptor (the same epoll instance). The loop's tables
    stay as they are.
    """

    def __init__(self, epoll_fd: int, fd: int) -> None:
        self._epoll = select.epoll.fromfd(os.dup(epoll_fd))
        self._fd = fd
        self.is_armed = True
        self._epoll.unregister(fd)
        self._epoll.register(fd, _EXCLUSIVE)

    def disarm(self) -> None:
        """Stop receiving wake-ups until `rearm`."""
        if self.is_armed:
            self.is_armed = False
            self._unregister()

    def rearm(self) -> None:
        """Join the queue at its end, or move there. Wakes at once if the descriptor is readable."""
        if self.is_armed:
            self._unregister()
        self.is_armed = True
        self._epoll.register(self._fd, _EXCLUSIVE)

    def _unregister(self) -> None:
        try:
            self._epoll.unregister(self._fd)
        except (FileNotFoundError, OSError):
            return  # the loop has removed it meanwhile

    def close(self) -> None:
        """Close the epoll's duplicate. The loop removes the registration."""
        self._epoll.close()


class Baton:
    """The primary's end of the baton, which is passed on when a wake-up may have been swallowed."""

    def __init__(self) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.fd = _opened_anew(reading)
        except OSError:  # without /proc: all processes share one open file, and its mode
            self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        finally:
            os.close(reading)
            os.close(writing)

    def open(self) -> int:
        """Return a descriptor for a worker, which closes it. Raises OSError."""
        try:
            return _opened_anew(self.fd)
        except FileNotFoundError:
            return duplicate(self.fd)

    def pass_on(self) -> None:
        """Wake one worker to check the listener."""
        pass_baton(self.fd)

    def close(self) -> None:
        """Close the baton."""
        os.close(self.fd)


def _opened_anew(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def pass_baton(fd: int) -> None:
    """Wake the first worker in the baton's queue. This replaces a baton that is still under way."""
    take_baton(fd)
    with contextlib.suppress(BlockingIOError):  # a process has filled the pipe: it wakes a worker anyway
        os.write(fd, _TOKEN)


def take_baton(fd: int) -> bool:
    """Take the baton. Returns whether there was one."""
    try:
        return bool(os.read(fd, len(_TOKEN)))
    except BlockingIOError:
        return False


def is_readable(fd: int) -> bool:
    """Whether `fd` is readable now; a listener is if its accept queue has a connection (poll(2))."""
    return bool(readable((fd,)))


def readable(fds: Iterable[int]) -> list[int]:
    """Those of `fds` that are readable now, or whose other end is closed (poll(2))."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(0)]
