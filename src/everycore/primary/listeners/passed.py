"""The sockets that a service manager has passed to this primary, until a worker asks for them.

A request to listen where one of them is bound gets that socket: binding anew would fail, or lose the
connections in its backlog. `core.passed` decides which socket answers. Invariant: a stored socket is taken
once, and belongs to this primary from then on. A socket that the manager has opened stays the manager's, and
the primary has duplicates.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from everycore.core.listeners import ListenKey
from everycore.core.passed import Passed, StoredName, Wanted, answers, is_in_the_way, read_name
from everycore.system import sockets
from everycore.system.descriptors import close_all, duplicate, is_socket
from everycore.system.given import is_v6only, restore
from everycore.system.listeners import BoundSocket, SocketKeeper

log = logging.getLogger("everycore.primary")


class Store(SocketKeeper, Protocol):
    """A keeper that also knows the sockets it has kept since an earlier primary."""

    def has(self, sock: BoundSocket) -> None:
        """Note that `sock` is kept already: an earlier primary had handed it over."""

    def forget(self, name: StoredName) -> None:
        """Drop the socket of that name: it is no longer needed."""


class PassedSockets:
    """What was passed, and the store that keeps listeners for the next primary (None without one).

    numbers: the descriptors and their names. Descriptors other than bound sockets are left alone.
    """

    def __init__(self, numbers: Mapping[int, str] | None = None) -> None:
        self.store: Store | None = None
        self._passed = [one for fd, name in (numbers or {}).items() if (one := _seen(fd, name)) is not None]

    @property
    def unclaimed(self) -> int:
        """The number of stored sockets that no worker has asked for yet."""
        return sum(passed.stored is not None for passed in self._passed)

    def take(
        self,
        key: ListenKey,
        make: type[BoundSocket],
        *,
        v6only: bool,
        backlog: int,
        mode: int | None,
        user: int | None = None,
    ) -> BoundSocket | None:
        """Take the socket that was passed for `key`, as a `make`; None without one. Raises OSError.

        mode: the permissions of a unix socket's file. user: as in `BoundSocket`.
        """
        likely = [one for one in self._passed if one.kind == key.kind and key.fd is None]
        for passed in likely:
            is_unix = passed.family == key.family == socket.AF_UNIX
            if is_unix and passed.stored is not None and passed.stored.file is not None:
                restore(_path(key.address), passed.stored.file, passed.address)
        wanted = _wanted(key, v6only=v6only) if likely else None
        for passed in likely:
            if wanted is not None and answers(passed, wanted):
                if passed.stored is None:
                    return make.adopted(passed.fd, backlog=backlog, internal=())
                return self._taken(passed, make, key.address, backlog, mode, user)
        if wanted is not None:
            self._clear_the_way(wanted)
        return None

    def keep(self, key: ListenKey, sock: BoundSocket) -> BoundSocket:
        """Have `sock`, which was bound for `key`, kept for the next primary once it listens.

        A socket whose port the kernel has chosen is not kept: the next primary would not know which port to
        ask for.
        """
        if not key.any_port:
            sock.keeper = self.store
        return sock

    def _taken(
        self,
        passed: Passed,
        make: type[BoundSocket],
        address: Any,
        backlog: int,
        mode: int | None,
        user: int | None,
    ) -> BoundSocket:
        path = address if passed.family == socket.AF_UNIX else None
        if passed.stored is not None and passed.stored.file is not None and mode is not None:
            sockets.change_mode(address, passed.stored.file, mode)
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(socket.socket(fileno=duplicate(passed.fd)))
            sock.setblocking(False)
            taken = make(sock, backlog=backlog, path=path, mode=mode, user=user)
            undo.pop_all()
        self._passed.remove(passed)
        close_all((passed.fd,))
        if self.store is not None:
            taken.keeper = self.store
            taken.owned = False
            self.store.has(taken)
        log.info("took over %s from the previous primary of this service", taken.what)
        return taken

    def give_up(self) -> None:
        """Close the stored sockets that no worker has asked for, so that no client waits there."""
        for passed in tuple(self._passed):
            self._drop(passed, "no worker listens there")

    def _clear_the_way(self, wanted: Wanted) -> None:
        for passed in tuple(self._passed):
            if is_in_the_way(passed, wanted):
                what = sockets.describe(wanted.address, wanted.family)
                self._drop(passed, f"it is in the way of {what}")

    def _drop(self, passed: Passed, why: str) -> None:
        """Close a stored socket. The manager closes its duplicate when it is told."""
        if passed.stored is None:
            return
        self._passed.remove(passed)
        with contextlib.suppress(OSError), socket.socket(fileno=passed.fd) as sock:
            if passed.kind == socket.SOCK_STREAM and passed.family != socket.AF_UNIX:
                # At once, even if others have it too; a socket that does not listen frees the port.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sockets.suspend(sock)
        if self.store is not None:
            self.store.forget(passed.stored)
        what = sockets.describe(passed.address, passed.family)
        log.info("closing %s of the previous primary of this service: %s", what, why)


def _seen(fd: int, name: str) -> Passed | None:
    """What the descriptor is; None if it is not a bound socket."""
    try:
        if not is_socket(fd):
            return None
        with socket.socket(fileno=duplicate(fd)) as sock:
            if not sockets.is_bound(sock):
                return None
            stored = read_name(name)
            if stored is not None:  # no program that is started here may inherit it
                os.set_inheritable(fd, False)
            return Passed(fd, sock.family, sock.type, sock.getsockname(), is_v6only(sock), stored)
    except (OSError, ValueError, OverflowError):
        return None


def _wanted(key: ListenKey, *, v6only: bool) -> Wanted | None:
    """The address that was asked for; None for a name without one, which binding will report."""
    if key.family == socket.AF_UNIX:
        return Wanted(key.family, key.kind, key.address, v6only, _file_at(key.address))
    address = _resolved(key.address, key.family, key.kind)
    return None if address is None else Wanted(key.family, key.kind, address, v6only)


def _resolved(address: Any, family: int, kind: int) -> Any:
    """The address that bind(2) would have used: the first one of the name."""
    if not isinstance(address, tuple) or len(address) < 2:
        return None
    host, port, *rest = address
    try:
        found = socket.getaddrinfo(host or None, port, family, kind, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, TypeError, OverflowError):
        return None
    return (*found[0][4][:2], *rest) if rest else found[0][4]


def _path(address: Any) -> str | bytes:
    """The path of a unix socket; "" for an abstract name."""
    return "" if os.fsencode(address)[:1] == b"\0" else address


def _file_at(path: Any) -> tuple[int, int] | None:
    if not _path(path):
        return None
    try:
        return sockets.file_identity(path)
    except OSError:
        return None
