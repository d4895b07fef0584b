"""What else in this process stands for an open file: other numbers, and registrations in its epolls.

For a file that is to be replaced by another one under its numbers (dup2(2)): the kernel drops what an epoll
knows of the old file with its last number, wherever that is, and knows nothing of the new one. Invariant:
where /proc does not tell, nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
from collections.abc import Iterator
from typing import Final, NamedTuple

from everycore.system.descriptors import open_numbers, socket_file

_REGISTRATION: Final = re.compile(r"tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)\s+data:\s*([0-9a-f]+)")
_EPOLL: Final = "anon_inode:[eventpoll]"
_LOW: Final = 0xFFFFFFFF


class Registration(NamedTuple):
    """That an epoll of this process watches a number, for which events, and what it says then."""

    epoll: int
    fd: int
    events: int
    data: int


def numbers_of(fd: int) -> set[int]:
    """All numbers of this process that stand for the same socket as `fd`."""
    file = socket_file(fd)
    return {fd} | {number for number in open_numbers() if file is not None and socket_file(number) == file}


def registrations_of(fds: set[int]) -> list[Registration]:
    """The registrations of these numbers."""
    return [
        found
        for epoll in open_numbers()
        if _is_epoll(epoll)
        for found in _registered(epoll)
        if found.fd in fds
    ]


def unregister(registration: Registration) -> None:
    """Take it back, while its number still stands for the file."""
    with contextlib.suppress(OSError), _borrowed(registration.epoll) as epoll:
        epoll.unregister(registration.fd)


def register_again(registration: Registration) -> None:
    """Have the epoll watch what the number stands for now."""
    with contextlib.suppress(OSError):
        if registration.data == registration.fd:
            with _borrowed(registration.epoll) as epoll:
                epoll.register(registration.fd, registration.events)
        else:
            _register_raw(registration)


def _register_raw(registration: Registration) -> None:
    """With the data that a library in C has given, which Python's own epoll does not know."""
    import ctypes  # late: hardly any program needs it
    import sys

    class RawEvent(ctypes.Structure):
        _pack_ = 1 if sys.maxsize > _LOW and os.uname().machine == "x86_64" else 8
        _layout_ = "ms"
        _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))

    event = RawEvent(registration.events, registration.data)
    add = 1  # EPOLL_CTL_ADD
    ctypes.CDLL(None).epoll_ctl(registration.epoll, add, registration.fd, ctypes.byref(event))


@contextlib.contextmanager
def _borrowed(number: int) -> Iterator[select.epoll]:
    with contextlib.closing(select.epoll.fromfd(os.dup(number))) as epoll:
        yield epoll


def _is_epoll(number: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{number}") == _EPOLL
    except OSError:
        return False


def _registered(epoll: int) -> list[Registration]:
    try:
        with open(f"/proc/self/fdinfo/{epoll}", encoding="ascii", errors="replace") as file:
            found = _REGISTRATION.findall(file.read())
    except OSError:
        return []
    return [Registration(epoll, int(fd), int(events, 16), int(data, 16)) for fd, events, data in found]
