"""The sockets of accepted connections that see their own end.

An asyncio transport closes its socket last of all, so the socket can report the end of the connection.
Programs see it through the transport alone. That lets them copy the socket, and the copy may outlive the
transport.
"""

from __future__ import annotations

import functools
import socket
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everycore.worker.connections.ledger import Ledger
    from everycore.worker.connections.limits import ConnectionLimit


class CountedSocket(socket.socket):
    """The socket under a transport, in the ledger until it is closed.

    HOT: made for every connection. A transport asks for family and type, for which `socket.socket` looks up
    the enum members anew each time; this class keeps them.
    """

    __slots__ = ("_carrier", "_is_copied", "_kinds", "_ledger", "entry", "peer")

    def __init__(
        self, family: int, kind: int, proto: int, fd: int, ledger: Ledger, server: ConnectionLimit
    ) -> None:
        super().__init__(family, kind, proto, fd)
        self._kinds = _kinds(family, kind)
        self._carrier: Callable[[], Any] | None = None
        self._is_copied = False
        self._ledger = ledger
        #: The peer's address according to the primary, if it gave one: a proxy may have named the client.
        self.peer: Any = None
        self.entry = ledger.opened(server, self)

    @property
    def family(self) -> socket.AddressFamily:
        """As `socket.family`."""
        return self._kinds[0]

    @property
    def type(self) -> socket.SocketKind:
        """As `socket.type`."""
        return self._kinds[1]

    def getpeername(self) -> Any:
        """As `socket.getpeername`, but return the client that a trusted proxy has named, if any."""
        found = super().getpeername()
        return found if self.peer is None else self.peer

    def carried_by(self, transport: Any) -> None:
        """Remember the transport to end. The reference is weak: asyncio must notice a dropped transport."""
        self._carrier = weakref.ref(transport)

    def end(self, *, abort: bool) -> None:
        """Close the transport, or abort it."""
        end_transport(self._carrier, abort=abort)

    def close(self) -> None:
        """As `socket.close`. It closes at once, since transports make no file from it."""
        self._report()
        super().close()

    def detach(self) -> int:
        """As `socket.detach`. From now on the descriptor is counted by its file."""
        self._is_copied = True
        self._report()
        return super().detach()

    def dup(self) -> socket.socket:  # type: ignore[override]
        """As `socket.dup`; returns a plain socket. If that outlives this one, its file is counted."""
        copy = socket.socket(*self._kinds, self.proto, socket.dup(self.fileno()))
        copy.settimeout(self.gettimeout())
        self._is_copied = True
        return copy

    def _report(self) -> None:
        if self._is_copied and self.entry.is_open:
            self._ledger.watch_file(self.fileno())
        self.entry.closed()


def end_transport(transport: Callable[[], Any] | None, *, abort: bool) -> None:
    """Close a transport, or abort it, if it still exists."""
    found = None if transport is None else transport()
    if found is None:
        return
    if abort:
        found.abort()
    else:
        found.close()


@functools.cache
def _kinds(family: int, kind: int) -> tuple[socket.AddressFamily, socket.SocketKind]:
    return socket.AddressFamily(family), socket.SocketKind(kind)
