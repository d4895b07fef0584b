"""Idle connections that this worker hands on when it leaves, or takes over from one that leaves.

This is the worker's half of `primary.handons`, for a server that knows which of its connections are idle.
Invariant: a descriptor that arrives here is served or closed.
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

#: Descriptors that are kept for everything else that a worker opens.
_SPARE: Final = 64

Taker = Callable[[socket.socket], None]


class HandOns:
    """The connections that this worker hands on and takes over."""

    def __init__(self) -> None:
        self._send_by_channel: Callable[[Any, Sequence[int]], None] | None = None
        self._taker: Taker | None = None
        #: How many more connections this worker may hand on, by the primary's count.
        self._left = 0
        #: Whether another worker takes over the connections of this one, which leaves; None: not told yet.
        self.is_told: bool | None = None

    @property
    def may(self) -> bool:
        """Whether to hand idle connections on now."""
        return bool(self.is_told) and self._left > 0

    @property
    def is_undecided(self) -> bool:
        """Whether the primary has yet to say if another worker takes over."""
        return self._taker is not None and self.is_told is None

    def speak_by(self, post: Callable[[Any, Sequence[int]], None]) -> None:
        """Send messages to the primary by `post` from now on."""
        self._send_by_channel = post

    def begin(self, taker: Taker) -> None:
        """Tell the primary that this worker's server can hand connections on and take them over.

        `taker` serves the connections that arrive, and owns them.
        """
        self._taker = taker
        self._left = max(descriptor_limit() - _SPARE, 0)
        self._send(wire.CanHandOn(self._left))

    def hand_on(self, fd: int) -> None:
        """Hand this connection to another worker. The descriptor no longer belongs to the caller."""
        self._left -= 1
        self._send(wire.HandOn(), (fd,))

    def _send(self, message: Any, fds: Sequence[int] = ()) -> None:
        if self._send_by_channel is None:
            close_all(fds)
        else:
            self._send_by_channel(message, fds)

    def take_over(self, fds: Sequence[int]) -> None:
        """Serve a connection that another worker has handed on. Raises ProtocolError if none came."""
        if len(fds) != 1 or self._taker is None:
            close_all(fds)
            raise ProtocolError(f"TakeOver came with {len(fds)} descriptors, or to a worker that can't")
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        self._taker(sock)


async def connect(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket
) -> bool:
    """Serve a connection that was taken over. Returns False if that fails: its client may have gone.

    A drain waits for the connection, as for every one that the loop was given.
    """
    try:
        await loop.connect_accepted_socket(factory, sock)
    except OSError as exc:
        log.debug("a connection that was taken over has ended: %s", exc)
        sock.close()
        return False
    return True
