"""The connections of proxies whose PROXY header has not come yet, and whom the headers name.

Take the header off each connection before anybody picks a worker for it: no program has to know of it, and
what `accept()` returns is the client's address. Invariants: a connection that is here is a descriptor of this
process, and no longer than `PATIENCE` seconds; nothing is read beyond the header; nothing blocks.

Read by peeking, and taken off as far as it belongs to the header. (A part that was left there would keep the
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

#: Seconds that a proxy has for its header: it sends that with its first segment.
PATIENCE: Final = 5.0
#: Connections that wait for their headers; one more, and the one that waits longest is closed.
MOST_WAITING: Final = 256
#: Seconds between two lines about connections that were closed for their header.
SILENCE: Final = 10.0
_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT


class _Waiting:
    """One of them, and what has come of its header."""

    __slots__ = ("come", "deadline", "peer", "sock")

    def __init__(self, sock: socket.socket, peer: Any) -> None:
        self.sock = sock
        self.peer = peer
        self.come = b""
        self.deadline: asyncio.TimerHandle | None = None


class Preambles:
    """The headers of one listener.

    on_come: takes each connection that had to wait for its header, or None: one less waits.
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
        """How many wait."""
        return len(self._waiting)

    def of(self, fd: int, peer: Any) -> Accepted | None:
        """An accepted connection with the address of its client; None: later, or never. Owns `fd`."""
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
        """The peer that the header names, or the proxy itself; None: the header has not come yet.

        Raises ValueError for what is none; OSError.
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
        """As a listener of both families calls a client of IPv4."""
        if self._listener.family == socket.AF_INET6 and ":" not in peer[0]:
            return f"::ffff:{peer[0]}", peer[1], 0, 0
        return peer

    @staticmethod
    def _take(waiting: _Waiting, size: int) -> None:
        """Take off what has been seen to be there."""
        waiting.sock.recv(size, socket.MSG_DONTWAIT)

    def _wait(self, waiting: _Waiting) -> None:
        if len(self._waiting) >= MOST_WAITING:
            oldest = next(iter(self._waiting.values()))
            self._forget(oldest)
            self._give_up(oldest, ValueError(f"{MOST_WAITING} others wait for theirs"))
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
        self._end(waiting, ValueError(f"none has come in {PATIENCE:g} s"))

    def _end(self, waiting: _Waiting, error: Exception) -> None:
        self._forget(waiting)
        self._give_up(waiting, error)
        self._on_come(None)

    def _give_up(self, waiting: _Waiting, error: Exception) -> None:
        """Close it. One that has gone by itself, as the checks of load balancers do, is no news."""
        waiting.sock.close()
        now = self._loop.time()
        if isinstance(error, OSError) or now < self._silent_until:
            return
        self._silent_until = now + SILENCE
        whom = describe(tuple(waiting.peer)) if isinstance(waiting.peer, (tuple, list)) else "a unix socket"
        log.warning(
            "%s: a connection of the proxy %s was closed for its PROXY header: %s",
            self._listener.what,
            whom,
            error,
        )

    def drop(self) -> None:
        """Close those that wait."""
        for waiting in list(self._waiting.values()):
            self._forget(waiting)
            waiting.sock.close()

    def abandon(self) -> None:
        """In a forked child: close our copies. The loop is the parent's, and not touched."""
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.sock.close()
