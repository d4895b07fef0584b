"""Has the service manager keep the listeners for the next primary: FDSTORE (sd_notify(3)).

systemd with `FileDescriptorStoreMax=` does. A restart, and a primary that was killed, then lose no connection
that waits in a backlog. Invariant: the manager keeps exactly the listeners that there are, as many as it has
room for; once the service stops, it keeps what it has.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from everycore.core.passed import StoredName
from everycore.system.descriptors import socket_file
from everycore.system.listeners import BoundSocket
from everycore.system.notify import Notifier

log = logging.getLogger("everycore.ops")


class ListenerStore:
    """The listeners of one service that its manager keeps: a `Store`.

    unclaimed: how many more it keeps, which the last primary has stored and nobody has asked for yet.
    """

    def __init__(self, notifier: Notifier, unclaimed: Callable[[], int]) -> None:
        self._notifier = notifier
        self._unclaimed = unclaimed
        self._stored: dict[BoundSocket, StoredName] = {}
        self._is_stopping = False

    def keep(self, sock: BoundSocket) -> bool:
        """As `SocketKeeper.keep`. False: there is no room, or the service stops already."""
        if sock in self._stored:
            return True
        name = _name_of(sock)
        if name is None or self._is_stopping:
            return False
        if len(self._stored) + self._unclaimed() >= self._notifier.room:
            log.warning(
                "%s is not kept over a restart: the service manager has room for %d sockets"
                " (FileDescriptorStoreMax=)",
                sock.what,
                self._notifier.room,
            )
            return False
        with contextlib.suppress(OSError):  # no descriptor is left
            # FDPOLL=0: the manager would forget a socket as soon as an error is reported on it.
            self._notifier.tell("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fd=sock.sock.fileno())
            self._stored[sock] = name
        return sock in self._stored

    def has(self, sock: BoundSocket) -> None:
        """As `Store.has`."""
        if (name := _name_of(sock)) is not None:
            self._stored[sock] = name

    def let_go(self, sock: BoundSocket) -> bool:
        """As `SocketKeeper.let_go`: what is closed while the service goes on is nobody's any more."""
        name = self._stored.pop(sock, None)
        if name is not None and not self._is_stopping:
            self.forget(name)
        return name is not None and self._is_stopping

    def forget(self, name: StoredName) -> None:
        """As `Store.forget`."""
        self._notifier.tell("FDSTOREREMOVE=1", f"FDNAME={name}")

    def stop(self) -> None:
        """The service stops: what it has stored is for the next one."""
        self._is_stopping = True


def _name_of(sock: BoundSocket) -> StoredName | None:
    found = socket_file(sock.sock.fileno())
    return None if found is None else StoredName(found[1], sock.file)
