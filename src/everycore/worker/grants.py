"""The listeners that this worker asks the primary for: by the channel on its loop, by the link anywhere else.

A listener that was granted to a request that nobody waits for any more is given back at once.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import weakref
from typing import TYPE_CHECKING, Any

import msgspec

from everycore.core import wire
from everycore.errors import ChannelClosed
from everycore.worker.listening.clustersocket import ClusterSocket, SharedSocket
from everycore.worker.listening.eithersocket import EitherSocket
from everycore.worker.listening.link import PATIENCE, decline

if TYPE_CHECKING:
    from everycore.aio.channel import Channel
    from everycore.worker.connections.ledger import Ledger
    from everycore.worker.departure import Departure
    from everycore.worker.listening.link import Link
    from everycore.worker.listening.readiness import Readiness


class Grants:
    """The listeners that this worker has asked for, and those that it was granted."""

    def __init__(self, link: Link, connections: Ledger, readiness: Readiness, departure: Departure) -> None:
        self._link = link
        self._watch = connections.watch_file
        self._readiness = readiness
        self._departure = departure
        self._sockets: weakref.WeakSet[ClusterSocket] = weakref.WeakSet()
        self._shared: weakref.WeakSet[SharedSocket] = weakref.WeakSet()
        self._pending: dict[int, tuple[asyncio.Future[ClusterSocket], bool]] = {}
        self._last_request = 0

    # --- by the channel -----------------------------------------------------------------------------------

    async def listen(self, request: wire.Listen, channel: Channel) -> ClusterSocket:
        """Ask for a listener. Raises OSError as a lone process would see it, ChannelClosed."""
        if channel.is_closed:
            if self._departure.has_begun:  # the request waits for the end of the worker, as any other does
                await self._departure.over()
            raise ChannelClosed("the primary")
        self._last_request += 1
        number = self._last_request
        future: asyncio.Future[ClusterSocket] = asyncio.get_running_loop().create_future()
        self._pending[number] = (future, request.start)
        channel.post(msgspec.structs.replace(request, request=number))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().close()  # it came in the very turn in which the request was cancelled
            raise
        finally:
            self._pending.pop(number, None)

    def granted(self, message: wire.Granted, fds: tuple[int, ...]) -> None:
        """The primary has granted a listener."""
        future, started = self._pending.pop(message.request, (None, False))
        if future is None or future.done():  # the request was cancelled meanwhile
            decline(list(fds))
            return
        future.set_result(self._made(message, fds, started=started))

    def refused(self, message: wire.Refused) -> None:
        """The primary has refused one."""
        future, _ = self._pending.pop(message.request, (None, False))
        if future is not None and not future.done():
            future.set_exception(OSError(message.errno, message.text))

    # --- by the link --------------------------------------------------------------------------------------

    def listen_blocking(self, request: wire.Listen, timeout: float) -> ClusterSocket:
        """As `listen`, for any thread, with or without a loop. The listener is served at once."""
        if self._departure.has_begun:  # the primary's own answer, should it have closed the link already
            raise OSError(errno.ECANCELED, "the worker is leaving")
        message, fds = self._link.request(request, timeout=timeout)
        self._readiness.serves()
        sock = self._made(message, fds, started=True)
        sock.tell_primary(wire.Serve(1))
        return sock

    def bind(self, request: wire.Bind, fd: int) -> ClusterSocket:
        """Let the primary bind the program's own socket, `fd`. Raises OSError as the system call would."""
        message, fds = self._link.request(request, fd=fd)
        sock = ClusterSocket.granted(message, fds, self._watch, self._start, started=False)
        if isinstance(sock, SharedSocket) and message.kind == socket.SOCK_STREAM:
            self._shared.add(sock)
            return EitherSocket(sock)
        return sock

    def shared(self) -> list[int]:
        """The numbers of listeners that this worker has and that are the primary's own."""
        return [sock.fileno() for sock in tuple(self._shared) if sock.fileno() >= 0]

    def take_back(self, sock: ClusterSocket) -> int:
        """Have the program's own socket back from the primary, still bound. Raises OSError."""
        grant = sock.grant
        assert grant is not None
        _, fds = self._link.request(wire.Release(grant.listener))
        return fds[0]

    def option(self, request: wire.SetOption | wire.GetOption) -> bytes:
        """Set or read an option of a listener in the primary. Raises OSError."""
        reply, _ = self._link.request(request)
        return reply.value if isinstance(reply, wire.Option) else b""

    def check_connect(self, address: Any) -> None:
        """Raises OSError (ECONNREFUSED) if a lone program would find nobody at `address`."""
        self._link.request(wire.MayConnect(address), timeout=PATIENCE)

    def check_remove(self, path: Any) -> None:
        """Raises OSError (ECONNREFUSED) if another worker listens on the unix socket of that path."""
        self._link.request(wire.MayConnect(path, others=True), timeout=PATIENCE)

    def settle(self) -> None:
        """Wait until the primary has heard what was said on belts; for a second at most."""
        self._link.settle(timeout=1.0)

    # --- all of them --------------------------------------------------------------------------------------

    def _made(
        self, message: wire.Granted, fds: list[int] | tuple[int, ...], *, started: bool
    ) -> ClusterSocket:
        sock = ClusterSocket.granted(message, fds, self._watch, self._start, started=started)
        self._sockets.add(sock)
        if isinstance(sock, SharedSocket):
            self._shared.add(sock)
        self._readiness.listens()
        return sock

    def _start(self, listener: int, backlog: int) -> None:
        """Let what was only bound listen. Raises OSError."""
        self._link.request(wire.StartListening(listener, backlog))
        self._readiness.listens()

    def abandon(self) -> None:
        """In a forked child: the sockets are the parent's."""
        for sock in tuple(self._sockets):
            sock.abandon()
