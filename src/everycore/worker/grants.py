"""The listeners that this worker asks the primary for: by the channel on its loop, by the link anywhere else.

If the primary grants a listener after its request was cancelled, the worker gives it back at once.
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
        """Ask for a listener. Raises ChannelClosed, and the OSError of a lone process."""
        if channel.is_closed:
            if self._departure.has_begun:  # like any other request, this one waits for the worker's end
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
                future.result().close()  # the grant arrived in the turn in which the request was cancelled
            raise
        finally:
            self._pending.pop(number, None)

    def granted(self, message: wire.Granted, fds: tuple[int, ...]) -> None:
        """The primary has granted a listener: resolve the request that asked for it."""
        future, started = self._pending.pop(message.request, (None, False))
        if future is None or future.done():  # the request was cancelled in the meantime
            decline(list(fds))
            return
        future.set_result(self._made(message, fds, started=started))

    def refused(self, message: wire.Refused) -> None:
        """The primary has refused a listener: fail the request with the OSError that it names."""
        future, _ = self._pending.pop(message.request, (None, False))
        if future is not None and not future.done():
            future.set_exception(OSError(message.errno, message.text))

    # --- by the link --------------------------------------------------------------------------------------

    def listen_blocking(self, request: wire.Listen, timeout: float) -> ClusterSocket:
        """As `listen`, from any thread, with or without a loop. The listener serves at once."""
        if self._departure.has_begun:  # the primary would answer the same, but may have closed the link
            raise OSError(errno.ECANCELED, "the worker is leaving")
        message, fds = self._link.request(request, timeout=timeout)
        self._readiness.serves()
        sock = self._made(message, fds, started=True)
        sock.tell_primary(wire.Serve(1))
        return sock

    def bind(self, request: wire.Bind, fd: int) -> ClusterSocket:
        """Let the primary bind the program's own socket, `fd`. Raises the OSError of the system call."""
        message, fds = self._link.request(request, fd=fd)
        sock = ClusterSocket.granted(message, fds, self._watch, self._start, started=False)
        if isinstance(sock, SharedSocket) and message.kind == socket.SOCK_STREAM:
            self._shared.add(sock)
            return EitherSocket(sock)
        return sock

    def shared(self) -> list[int]:
        """The descriptors in this worker that are the primary's own listeners."""
        return [sock.fileno() for sock in tuple(self._shared) if sock.fileno() >= 0]

    def take_back(self, sock: ClusterSocket) -> int:
        """Get the program's own socket back from the primary, still bound. Raises OSError."""
        grant = sock.grant
        assert grant is not None
        _, fds = self._link.request(wire.Release(grant.listener))
        return fds[0]

    def option(self, request: wire.SetOption | wire.GetOption) -> bytes:
        """Set or read an option of a listener in the primary. Raises OSError."""
        reply, _ = self._link.request(request)
        return reply.value if isinstance(reply, wire.Option) else b""

    def check_connect(self, address: Any) -> None:
        """Raise OSError (ECONNREFUSED) if nothing would listen at `address` were this a lone process."""
        self._link.request(wire.MayConnect(address), timeout=PATIENCE)

    def check_remove(self, path: Any) -> None:
        """Raise OSError (ECONNREFUSED) if another worker listens on the unix socket at `path`."""
        self._link.request(wire.MayConnect(path, others=True), timeout=PATIENCE)

    def settle(self) -> None:
        """Wait until the primary has read what this worker sent on its belts, for a second at most."""
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
        """Let a socket that is only bound begin to listen. Raises OSError."""
        self._link.request(wire.StartListening(listener, backlog))
        self._readiness.listens()

    def abandon(self) -> None:
        """Close this process's copies, in a forked child: the sockets are the parent's."""
        for sock in tuple(self._sockets):
            sock.abandon()
