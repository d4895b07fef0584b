"""What else stands for an open file in this process: other descriptors, and registrations in epoll instances.

This is needed when another file is to take over a file's descriptors (dup2(2)). An epoll registration ends
with the last descriptor of the old file, in whatever process that is, and does not carry over to the new
file. Invariant: without /proc, nothing is found.
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
    """One registration: an epoll of this process watches `fd` for `events` and reports `data`."""

    epoll: int
    fd: int
    events: int
    data: int


def numbers_of(fd: int) -> set[int]:
    """All descriptors of this process that stand for the same socket as `fd`."""
    file = socket_file(fd)
    return {fd} | {number for number in open_numbers() if file is not None and socket_file(number) == file}


def registrations_of(fds: set[int]) -> list[Registration]:
    """The registrations of these descriptors."""
    return [
        found
        for epoll in open_numbers()
        if _is_epoll(epoll)
        for found in _registered(epoll)
        if found.fd in fds
    ]


def unregister(registration: Registration) -> None:
    """Remove a registration, while its descriptor still stands for the old file."""
    with contextlib.suppress(OSError), _borrowed(registration.epoll) as epoll:
        epoll.unregister(registration.fd)


def register_again(registration: Registration) -> None:
    """Register the file that the descriptor stands for now."""
    with contextlib.suppress(OSError):
        if registration.data == registration.fd:
            with _borrowed(registration.epoll) as epoll:
                epoll.register(registration.fd, registration.events)
        else:
            _register_raw(registration)


def _register_raw(registration: Registration) -> None:
    """Register with the data of a C library, which Python's own epoll cannot express."""
    import ctypes  # imported late: hardly any program needs it
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
