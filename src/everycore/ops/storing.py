"""Makes the service manager keep the listeners for the next primary: FDSTORE (sd_notify(3)).

systemd does, with `FileDescriptorStoreMax=`. Then neither a restart nor a killed primary loses a connection
that waits in a backlog. Invariant: the manager keeps exactly the current listeners, as many as it has room
for. Once the service stops, it keeps what it has.
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

    unclaimed: returns how many more the manager keeps, stored by the previous primary and not yet asked for.
    """

    def __init__(self, notifier: Notifier, unclaimed: Callable[[], int]) -> None:
        self._notifier = notifier
        self._unclaimed = unclaimed
        self._stored: dict[BoundSocket, StoredName] = {}
        self._is_stopping = False

    def keep(self, sock: BoundSocket) -> bool:
        """As `SocketKeeper.keep`. Returns False if there is no room, or if the service is stopping."""
        if sock in self._stored:
            return True
        name = _name_of(sock)
        if name is None or self._is_stopping:
            return False
        if len(self._stored) + self._unclaimed() >= self._notifier.room:
            log.warning(
                "%s will not be kept over a restart: the service manager has room for %d sockets only"
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
        """As `SocketKeeper.let_go`: the manager forgets a listener that closes while the service goes on."""
        name = self._stored.pop(sock, None)
        if name is not None and not self._is_stopping:
            self.forget(name)
        return name is not None and self._is_stopping

    def forget(self, name: StoredName) -> None:
        """As `Store.forget`."""
        self._notifier.tell("FDSTOREREMOVE=1", f"FDNAME={name}")

    def stop(self) -> None:
        """Stop storing: the service stops, and the next primary gets what is stored."""
        self._is_stopping = True


def _name_of(sock: BoundSocket) -> StoredName | None:
    found = socket_file(sock.sock.fileno())
    return None if found is None else StoredName(found[1], sock.file)
