"""The worker's own count of open connections: what a drain waits for.

Job: know every connection that was accepted through everycore or opened by the worker's loop, until it is
closed. Invariant: counted when it is made, uncounted when its descriptor is closed or detached: not when a
protocol says so. Must not import asyncio, nor the primary's side.
"""

from __future__ import annotations

import socket
import weakref
from collections.abc import Callable
from typing import Any

from everycore.system.board import WorkerBoard


class Connections:
    """What is open now. Only ever used from one thread at a time, but for plain sockets (a WeakSet)."""

    def __init__(self, board: WorkerBoard) -> None:
        self._board = board
        self._counted = 0
        self._plain: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._transports: weakref.WeakSet[Any] = weakref.WeakSet()
        self._when_none: list[Callable[[], None]] = []
        self._when_fewer: Callable[[], None] | None = None

    @property
    def open(self) -> int:
        """How many are open."""
        return self._counted + sum(sock.fileno() >= 0 for sock in tuple(self._plain))

    def counted_socket(self, family: int, kind: int, proto: int, fd: int) -> CountedSocket:
        """A socket for a transport: closing it is noticed at once."""
        sock = CountedSocket(family, kind, proto, fileno=fd)
        sock.on_closed = self._accepted_closed
        self._counted += 1
        self._board.opened()
        return sock

    def watch_plain(self, sock: socket.socket) -> None:
        """Count a socket that the program got from `accept()`: a plain one, looked at when asked."""
        self._plain.add(sock)

    def watch_transport(self, transport: Any) -> None:
        """Remember what to abort when grace is over."""
        self._transports.add(transport)

    def watch_opened(self, inner: Any, transport: Any) -> None:
        """Count a connection that the program opened, until its (innermost) transport has lost it.

        asyncio calls `_call_connection_lost` once, last of all. A transport without it is not counted.
        """
        lost = getattr(inner, "_call_connection_lost", None)
        if lost is None:
            return

        def count_and_lose(exc: Exception | None) -> None:
            del inner._call_connection_lost
            try:
                lost(exc)
            finally:
                self._closed()

        inner._call_connection_lost = count_and_lose
        self._counted += 1
        self.watch_transport(transport)

    def when_none(self, callback: Callable[[], None]) -> None:
        """Call `callback` once none of the counted ones is open: now, or when the last one closes."""
        if self._counted == 0:
            callback()
        else:
            self._when_none.append(callback)

    def when_fewer(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the next counted connection is closed."""
        self._when_fewer = callback

    def abort(self) -> None:
        """Cut what is open."""
        for transport in tuple(self._transports):
            transport.abort()
        for sock in tuple(self._plain):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _accepted_closed(self) -> None:
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


class CountedSocket(socket.socket):
    """A socket that says when it is closed. Programs see it only through a transport."""

    __slots__ = ("on_closed",)

    on_closed: Callable[[], None] | None

    def _real_close(self, *args: Any, **kwargs: Any) -> None:
        self._report()
        super()._real_close(*args, **kwargs)  # type: ignore[misc]

    def detach(self) -> int:
        """As `socket.detach`: the connection is somebody else's from now on."""
        self._report()
        return super().detach()

    def _report(self) -> None:
        on_closed = getattr(self, "on_closed", None)
        self.on_closed = None
        if on_closed is not None:
            on_closed()
