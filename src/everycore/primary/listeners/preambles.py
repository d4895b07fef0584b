"""The connections of proxies whose PROXY header has not come yet, and the clients that the headers name.

The header is taken off each connection before a worker is chosen for it. No program needs to know of it:
`accept()` returns the client's address. Invariants: a connection that is here is a descriptor of this
process, for at most `PATIENCE` seconds; nothing beyond the header is read; nothing blocks.

The header is read by peeking, and what belongs to it is then taken off. (A part left there would keep the
descriptor readable, and the loop awake.)
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

from everycore.core.proxies import MOST_HEADER, Proxies, read_header
from everycore.primary.listeners.subscriber import Accepted
from everycore.system.listeners import BoundSocket
from everycore.system.sockets import describe

log = logging.getLogger("everycore.primary")

#: Seconds in which the header must come: a proxy sends it with its first segment.
PATIENCE: Final = 5.0
#: The most connections that wait for their headers. One more closes the one that has waited longest.
MOST_WAITING: Final = 256
#: Seconds between two log lines about connections that were closed for their header.
SILENCE: Final = 10.0
_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT


class _Waiting:
    """One waiting connection, and what has come of its header."""

    __slots__ = ("come", "deadline", "peer", "sock")

    def __init__(self, sock: socket.socket, peer: Any) -> None:
        self.sock = sock
        self.peer = peer
        self.come = b""
        self.deadline: asyncio.TimerHandle | None = None


class Preambles:
    """The headers of one listener.

    on_come: takes each connection that had to wait for its header; None when one has ended without it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: BoundSocket,
        proxies: Proxies,
        on_come: Callable[[Accepted | None], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._proxies = proxies
        self._on_come = on_come
        self._waiting: dict[int, _Waiting] = {}
        self._silent_until = 0.0

    def __len__(self) -> int:
        """The number of waiting connections."""
        return len(self._waiting)

    def of(self, fd: int, peer: Any) -> Accepted | None:
        """An accepted connection with its client's address; None: later, or never. Owns `fd`."""
        if not self._proxies.has(peer):
            return fd, peer
        family = self._listener.family
        waiting = _Waiting(socket.socket(family, socket.SOCK_STREAM, 0, fd), peer)
        try:
            found = self._read(waiting)
        except (OSError, ValueError) as error:
            self._give_up(waiting, error)
            return None
        if found is None:
            self._wait(waiting)
            return None
        waiting.sock.detach()
        return fd, found

    def _read(self, waiting: _Waiting) -> Any:
        """The peer that the header names, or the proxy itself; None if the header has not come yet.

        Raises ValueError for data that is not a header; OSError.
        """
        while True:
            try:
                data = waiting.sock.recv(MOST_HEADER, _PEEK)
            except (BlockingIOError, InterruptedError):
                return None
            if not data:
                raise ConnectionResetError("it has gone")
            header = read_header(waiting.come + data)
            if header is not None:
                self._take(waiting, header.size - len(waiting.come))
                return waiting.peer if header.peer is None else self._as_accepted(header.peer)
            self._take(waiting, len(data))
            waiting.come += data

    def _as_accepted(self, peer: tuple[Any, ...]) -> tuple[Any, ...]:
        """The name of an IPv4 client as a dual-stack listener reports it."""
        if self._listener.family == socket.AF_INET6 and ":" not in peer[0]:
            return f"::ffff:{peer[0]}", peer[1], 0, 0
        return peer

    @staticmethod
    def _take(waiting: _Waiting, size: int) -> None:
        """Take off data that was peeked before."""
        waiting.sock.recv(size, socket.MSG_DONTWAIT)

    def _wait(self, waiting: _Waiting) -> None:
        if len(self._waiting) >= MOST_WAITING:
            oldest = next(iter(self._waiting.values()))
            self._forget(oldest)
            self._give_up(oldest, ValueError(f"{MOST_WAITING} other connections wait for theirs"))
        fd = waiting.sock.fileno()
        self._waiting[fd] = waiting
        waiting.deadline = self._loop.call_later(PATIENCE, self._on_late, waiting)
        self._loop.add_reader(fd, self._on_readable, waiting)

    def _forget(self, waiting: _Waiting) -> None:
        fd = waiting.sock.fileno()
        del self._waiting[fd]
        self._loop.remove_reader(fd)
        assert waiting.deadline is not None
        waiting.deadline.cancel()

    def _on_readable(self, waiting: _Waiting) -> None:
        try:
            found = self._read(waiting)
        except (OSError, ValueError) as error:
            self._end(waiting, error)
            return
        if found is not None:
            self._forget(waiting)
            self._on_come((waiting.sock.detach(), found))

    def _on_late(self, waiting: _Waiting) -> None:
        self._end(waiting, ValueError(f"it did not come within {PATIENCE:g} s"))

    def _end(self, waiting: _Waiting, error: Exception) -> None:
        self._forget(waiting)
        self._give_up(waiting, error)
        self._on_come(None)

    def _give_up(self, waiting: _Waiting, error: Exception) -> None:
        """Close a connection. If it ended by itself, as load balancers' checks do, log nothing."""
        waiting.sock.close()
        now = self._loop.time()
        if isinstance(error, OSError) or now < self._silent_until:
            return
        self._silent_until = now + SILENCE
        whom = describe(tuple(waiting.peer)) if isinstance(waiting.peer, (tuple, list)) else "a unix socket"
        log.warning(
            "%s: a connection of the proxy %s was closed because of its PROXY header: %s",
            self._listener.what,
            whom,
            error,
        )

    def drop(self) -> None:
        """Close the waiting connections."""
        for waiting in list(self._waiting.values()):
            self._forget(waiting)
            waiting.sock.close()

    def abandon(self) -> None:
        """In a forked child: close the child's copies, and leave the parent's loop alone."""
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.sock.close()
