"""The workers accept: the listener, or the datagram socket, is shared.

Give every worker the descriptor itself, tell those that accept without a loop of ours when they may, and
watch that no connection waits because the worker that was woken for it died, stopped or blocked. Invariants:
a connection lies in the accept queue for at most two looks while some worker could take it; a `Rest` lies on
the belt of a worker exactly while it is not ready. Nothing is accepted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

from everycore.core import wire
from everycore.core.listeners import Listing
from everycore.errors import ProtocolError
from everycore.primary.host import LAST_WORDS, Absence, Client, Holder, ListenerHost
from everycore.system.belt import Belt
from everycore.system.descriptors import close_all
from everycore.system.listeners import BoundSocket
from everycore.system.wakeups import Baton, is_readable

#: Seconds between two looks at the accept queue. Found non-empty twice running, the baton is passed on.
LOOK: Final = 0.05
_REST: Final = wire.encode(wire.Rest())


class Sharer(ListenerHost):
    """A listener whose connections the workers accept themselves."""

    policy = "shared"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: BoundSocket,
        listing: Listing,
        absence: Absence,
        on_closed: Callable[[ListenerHost, int], None],
    ) -> None:
        super().__init__(loop, listener, listing, absence, on_closed)
        self._baton = Baton() if listener.kind == socket.SOCK_STREAM else None
        self._timer: asyncio.TimerHandle | None = None
        self._waited = False

    def add(self, client: Client, belt: Belt, *, ready: bool) -> None:
        """As `ListenerHost.add`."""
        if not ready:
            _tell_to_rest(belt)
        super().add(client, belt, ready=ready)

    def set_ready(self, worker: int) -> None:
        """As `ListenerHost.set_ready`."""
        holder = self._holders.get(worker)
        if holder is not None and not holder.ready:
            self._take_rest_away(holder)
        super().set_ready(worker)

    def _take_rest_away(self, holder: Holder) -> None:
        """Leave nothing on the belt. The worker, which has a copy of our end, may have put more there."""
        for _ in range(LAST_WORDS):
            try:
                message = holder.belt.read_back()
            except OSError:  # nothing, or no more: it may not have had room for the `Rest`
                return
            if message is None:
                return
            data, fds, _ = message
            close_all(fds)
            if fds or data != _REST:
                self._accuse(holder, ProtocolError("it has written on the primary's end of its belt"))

    def shared(self) -> tuple[int, ...]:
        """The listener, and the baton."""
        fds = (self.listener.sock.fileno(),)
        return fds if self._baton is None else (*fds, self._baton.fd)

    def account(self, worker: int) -> tuple[int, int]:
        """Nothing goes through here; the board has the workers' own counts."""
        return (0, 0)

    def close(self) -> None:
        """Give everything up."""
        super().close()
        if self._baton is not None:
            self._baton.close()
            self._baton = None

    def abandon(self) -> None:
        """As `ListenerHost.abandon`."""
        super().abandon()
        if self._baton is not None:
            self._baton.close()
            self._baton = None

    def _begin(self) -> None:
        if self._timer is None and self._baton is not None:
            self._timer = self._loop.call_later(LOOK, self._look)

    def _cease(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self) -> None:
        # A unix listener is suspended by closing it, and its holders would keep it alive: then it could not
        # be bound again. With those that are not ready there, connections wait for them in the backlog.
        if self.listener.family == socket.AF_UNIX and self._holders:
            self._cancel_hold()
            self._cease()
        else:
            super()._refuse()

    def _serve(self, worker: int, holder: Holder) -> None:
        """It polls the listener by itself."""

    def _abandon(self, worker: int, holder: Holder) -> None:
        if worker in self._holders:
            _tell_to_rest(holder.belt)
        # It may just have been woken.
        if self._baton is not None:
            self._baton.pass_on()

    def _take_note(self, worker: int, holder: Holder, word: Any, fds: list[int]) -> None:
        close_all(fds)
        raise ProtocolError(f"{type(word).__name__} on the belt of a shared listener")

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK, self._look)
        waits = self.listener.is_listening and is_readable(self.listener.sock.fileno())
        if waits and self._waited and self._baton is not None:
            self._baton.pass_on()
        self._waited = waits


def _tell_to_rest(belt: Belt) -> None:
    with contextlib.suppress(OSError):  # out of memory for buffers: it goes on until its sockets are closed
        belt.send(_REST, ())
