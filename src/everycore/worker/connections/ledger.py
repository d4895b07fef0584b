"""The worker's own count of open connections: what a drain waits for.

Job: know every connection that was accepted through everycore or opened by the worker's loop, until it is
closed. Invariant: counted when it is made, uncounted when its descriptor is closed or detached: not when a
protocol says so. Must not import asyncio, nor the primary's side.
"""

from __future__ import annotations

import functools
import socket
import weakref
from collections.abc import Callable
from typing import Any, Final

from everycore.foreign import asyncio_internals
from everycore.system.board import WorkerBoard
from everycore.worker.connections.limits import Limit

#: Transports to be looked at are sifted when there are this many, and twice as many as stayed the last time.
_LOOKED_AT: Final = 64


class Connections:
    """What is open now. Only ever used from one thread at a time, but for plain sockets (a WeakSet).

    Those accepted for a server, and those that asyncio opened, say when they are closed. At plain sockets,
    and at what uvloop opened, one has to look.
    """

    def __init__(self, board: WorkerBoard) -> None:
        self._board = board
        self._counted = 0
        self._plain: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._accepted: set[CountedSocket] = set()
        self._opened: weakref.WeakSet[Any] = weakref.WeakSet()
        self._servers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._looked_at: list[Any] = []
        self._most_looked_at = _LOOKED_AT
        self._when_none: list[Callable[[], None]] = []
        self._when_fewer: Callable[[], None] | None = None

    @property
    def open(self) -> int:
        """How many are open."""
        plain = sum(sock.fileno() >= 0 for sock in tuple(self._plain))
        return self._counted + plain + sum(map(_is_open, self._looked_at))

    def began(self) -> None:
        """A connection was accepted; whoever calls this calls `ended` once it is closed."""
        self._counted += 1
        self._board.opened()

    def counted_socket(self, family: int, kind: int, proto: int, fd: int, limit: Limit) -> CountedSocket:
        """A socket for a transport: closing it is noticed at once."""
        sock = CountedSocket(family, kind, proto, fileno=fd)
        sock.owner = self
        sock.limit = limit
        limit.open += 1
        self._accepted.add(sock)
        self.began()
        return sock

    def forget(self, sock: CountedSocket) -> None:
        """`sock` is being closed, or detached."""
        self._accepted.discard(sock)
        self.ended()
        assert sock.limit is not None
        sock.limit.ended()

    def watch_plain(self, sock: socket.socket) -> None:
        """Count a socket that the program got from `accept()`: a plain one, looked at when asked."""
        self._plain.add(sock)

    def is_plain(self, sock: socket.socket) -> bool:
        """Whether `sock` is counted as a plain one."""
        return sock in self._plain

    def watch_server(self, server: Any) -> None:
        """Remember whose `abort_clients()` to call when grace is over."""
        self._servers.add(server)

    def watch_opened(self, transport: Any) -> None:
        """Count a connection that the program opened, until its transport has lost it.

        A transport of asyncio tells. At others one has to look.
        """
        if transport.is_closing():
            return
        if asyncio_internals.when_lost(transport, self._closed):
            self._counted += 1
            self._opened.add(transport)
        else:
            self._look_at(transport)

    def _look_at(self, transport: Any) -> None:
        """Count a transport that does not tell when it is closed, and forget those that are, now and then."""
        if len(self._looked_at) >= self._most_looked_at:
            self._looked_at = list(filter(_is_open, self._looked_at))
            self._most_looked_at = max(2 * len(self._looked_at), _LOOKED_AT)
        self._looked_at.append(transport)

    def when_none(self, callback: Callable[[], None]) -> None:
        """Call `callback` once none is open of those that say so: now, or when the last one closes."""
        if self._counted == 0:
            callback()
        else:
            self._when_none.append(callback)

    def when_fewer(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the next counted connection is closed."""
        self._when_fewer = callback

    def abort(self) -> None:
        """Cut what is open."""
        for server in tuple(self._servers):
            server.abort_clients()
        for conn in tuple(self._accepted):
            conn.abort()
        for transport in (*self._opened, *self._looked_at):
            transport.abort()
        for sock in tuple(self._plain):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def ended(self) -> None:
        """An accepted connection is closed."""
        self._board.closed()
        if self._when_fewer is not None:
            callback, self._when_fewer = self._when_fewer, None
            callback()
        self._closed()

    def _closed(self) -> None:
        self._counted -= 1
        if self._counted == 0:
            callbacks, self._when_none = self._when_none, []
            for callback in callbacks:
                callback()


def _is_open(transport: Any) -> bool:
    """Whether a transport of uvloop, or one of TLS upon it, still has its descriptor."""
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.fileno() >= 0


class CountedSocket(socket.socket):
    """A socket that says when it is closed. Programs see it only through a transport.

    HOT: made for every connection; a transport asks for family and type, which `socket.socket` makes into new
    enum members each time.
    """

    __slots__ = ("_carrier", "_kinds", "limit", "owner")

    owner: Connections | None
    limit: Limit | None

    def __init__(self, family: int, kind: int, proto: int, *, fileno: int) -> None:
        super().__init__(family, kind, proto, fileno)
        self.owner = None
        self.limit = None
        self._kinds = _kinds(family, kind)
        self._carrier: Callable[[], Any] | None = None

    @property
    def family(self) -> socket.AddressFamily:
        """As `socket.family`."""
        return self._kinds[0]

    @property
    def type(self) -> socket.SocketKind:
        """As `socket.type`."""
        return self._kinds[1]

    def carried_by(self, transport: Any) -> None:
        """Remember whom to abort. Weakly: a transport that is dropped has to be found unclosed by asyncio."""
        self._carrier = weakref.ref(transport)

    def abort(self) -> None:
        """Cut the connection."""
        transport = None if self._carrier is None else self._carrier()
        if transport is not None:
            transport.abort()

    def close(self) -> None:
        """As `socket.close`. Transports make no file of it, so it is closed now."""
        self._report()
        super().close()

    def detach(self) -> int:
        """As `socket.detach`: the connection is somebody else's from now on."""
        self._report()
        return super().detach()

    def _report(self) -> None:
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.forget(self)


@functools.cache
def _kinds(family: int, kind: int) -> tuple[socket.AddressFamily, socket.SocketKind]:
    return socket.AddressFamily(family), socket.SocketKind(kind)
