"""Sockets that a service manager passes at start: their origin, and the request that each one answers.

Two kinds arrive by the same variables (sd_listen_fds(3)): sockets that the manager opened (socket
activation), and sockets that an earlier primary of this service gave it to keep (FDSTORE, sd_notify(3)). The
second kind is recognized by its name, a `StoredName`. Invariant: a passed socket answers a request only if
the kernel would have bound the same address for it. The facts about a socket are arguments: nothing is looked
up here.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from everycore.core.permits import permit_of

#: Device and inode.
File = tuple[int, int]

_NAME: Final = re.compile(r"everycore-(\d{1,20})(?:-(\d{1,20})-(\d{1,20}))?")
#: AF_UNIX and AF_INET6 (bits/socket.h).
_UNIX: Final = 1
_INET6: Final = 10
_EVERY_HOST: Final = ("0.0.0.0", "::")


class StoredName(msgspec.Struct, frozen=True):
    """The parts of a stored socket's name.

    inode: the socket's own. No two open sockets share one, and it does not change while the socket is open.
    file: the file of a unix socket; None if there is none.
    """

    inode: int
    file: File | None = None

    def __str__(self) -> str:
        file = "" if self.file is None else f"-{self.file[0]}-{self.file[1]}"
        return f"everycore-{self.inode}{file}"


def read_name(text: str) -> StoredName | None:
    """Return the name of a socket that a primary has stored, or None for any other name."""
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    file = None if found[2] is None else (int(found[2]), int(found[3]))
    return StoredName(int(found[1]), file)


class Passed(msgspec.Struct, frozen=True):
    """A passed socket: its descriptor, and its kind and address as the kernel reports them.

    stored: its name, if an earlier primary stored it.
    """

    fd: int
    family: int
    kind: int
    address: Any
    v6only: bool
    stored: StoredName | None = None


class Wanted(msgspec.Struct, frozen=True):
    """The address that a worker asks to have bound.

    address: an IP address, not a host name.
    file: the file that is at the path of a unix socket now.
    """

    family: int
    kind: int
    address: Any
    v6only: bool
    file: File | None = None


def answers(passed: Passed, wanted: Wanted) -> bool:
    """Whether `passed` is what binding `wanted` would have made.

    A stored unix socket must still be reachable by its path: the file may be gone, or another socket's.
    """
    if (passed.family, passed.kind) != (wanted.family, wanted.kind):
        return False
    if passed.family == _UNIX:
        if passed.stored is not None and passed.stored.file is not None:
            return passed.stored.file == wanted.file
        return bool(passed.address == wanted.address)
    is_v6 = passed.family == _INET6
    if is_v6 and passed.v6only != wanted.v6only:
        return False
    ours, its = (permit_of(address, is_v6=is_v6) for address in (passed.address, wanted.address))
    return ours is not None and ours == its and _scope(passed.address) == _scope(wanted.address)


def is_in_the_way(passed: Passed, wanted: Wanted) -> bool:
    """Whether `wanted` cannot be bound while `passed`, which does not answer it, listens.

    This happens if a service listened on one address of a port and now listens on all of them, or vice versa.
    """
    if passed.kind != wanted.kind or _UNIX in (passed.family, wanted.family):
        return False
    if answers(passed, wanted) or passed.address[1] != wanted.address[1]:
        return False
    if passed.family == wanted.family:
        its, ours = (str(address[0]) for address in (passed.address, wanted.address))
        return its in _EVERY_HOST or ours in _EVERY_HOST or its == ours
    both = passed if passed.family == _INET6 else wanted  # an IPv6 socket may serve IPv4 too
    return str(both.address[0]) in _EVERY_HOST and not both.v6only


def _scope(address: Any) -> int:
    """Return the interface index of a link-local address, else 0."""
    return int(address[3]) if len(address) > 3 else 0
