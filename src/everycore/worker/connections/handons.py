"""Idle connections that this worker hands on when it leaves, or takes over from one that leaves.

The worker's half of `primary.handons`, for a server that knows which of its connections are idle. Invariant:
a descriptor that comes here is served or closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from everycore.core import wire
from everycore.errors import ProtocolError
from everycore.system.descriptors import close_all
from everycore.worker.connections.reception import descriptor_limit

log = logging.getLogger("everycore.worker")

#: Descriptors that are kept for what else a worker has open.
_SPARE: Final = 64

Taker = Callable[[socket.socket], None]


class HandOns:
    """What this worker hands on and takes over."""

    def __init__(self) -> None:
        self._send_by_channel: Callable[[Any, Sequence[int]], None] | None = None
        self._taker: Taker | None = None
        #: How many more this worker may hand on: as the primary counts them.
        self._left = 0
        #: This worker leaves, and another one takes over what it hands on, or does not; None: not told yet.
        self.is_told: bool | None = None

    @property
    def may(self) -> bool:
        """Whether to hand idle connections on now."""
        return bool(self.is_told) and self._left > 0

    @property
    def is_undecided(self) -> bool:
        """Whether the primary is still to say if another worker takes over."""
        return self._taker is not None and self.is_told is None

    def speak_by(self, post: Callable[[Any, Sequence[int]], None]) -> None:
        """`post` sends a message to the primary."""
        self._send_by_channel = post

    def begin(self, taker: Taker) -> None:
        """Tell the primary that this worker's server can do both; `taker` serves what comes, and owns it."""
        self._taker = taker
        self._left = max(descriptor_limit() - _SPARE, 0)
        self._send(wire.CanHandOn(self._left))

    def hand_on(self, fd: int) -> None:
        """Let another worker have this connection; the descriptor is not the caller's any more."""
        self._left -= 1
        self._send(wire.HandOn(), (fd,))

    def _send(self, message: Any, fds: Sequence[int] = ()) -> None:
        if self._send_by_channel is None:
            close_all(fds)
        else:
            self._send_by_channel(message, fds)

    def take_over(self, fds: Sequence[int]) -> None:
        """A connection has come. Raises ProtocolError if it has not."""
        if len(fds) != 1 or self._taker is None:
            close_all(fds)
            raise ProtocolError(f"TakeOver came with {len(fds)} descriptors, or to a worker that can't")
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        self._taker(sock)


async def connect(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket
) -> bool:
    """Serve a connection that was taken over; False if that failed, as when its client has gone.

    A drain waits for it, as for every connection that the loop was given.
    """
    try:
        await loop.connect_accepted_socket(factory, sock)
    except OSError as exc:
        log.debug("a connection that was taken over has ended: %s", exc)
        sock.close()
        return False
    return True
