"""Whether a listener serves new connections, and how that ends when all workers are to leave.

Connections that have come are served, and later ones are refused. The listener goes first, then the workers:
no worker is asked to leave while a connection waits that it could serve. Invariant: a worker in `leavers` is
told of the end exactly once, or is forgotten.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from functools import partial

from everycore.primary.listeners.barring import Barring
from everycore.primary.listeners.distribution import Distribution
from everycore.system.listeners import BoundSocket


class _State(enum.Enum):
    OPEN = "new connections are served by any ready worker"
    CLOSING = "connections that have come are served, and new ones are refused as soon as possible"
    CLOSED = "new connections are refused"


class Doors:
    """The doors of one listener. `on_closed` is told which workers are to be asked to leave now."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: BoundSocket,
        distribution: Distribution,
        on_closed: Callable[[set[int]], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._distribution = distribution
        self._on_closed = on_closed
        self._state = _State.OPEN
        self._barring: Barring | None = None
        #: Workers to be asked to leave once every connection that had come was picked up.
        self.leavers: set[int] = set()

    @property
    def are_open(self) -> bool:
        """Whether new connections are served."""
        return self._state is _State.OPEN

    @property
    def are_closing(self) -> bool:
        """Whether connections that have come are still being served, while workers wait as `leavers`."""
        return self._state is _State.CLOSING

    def close(self, *, is_somebody_ready: bool) -> None:
        """Begin to close: all workers are to leave."""
        if not self.are_open:
            return
        self._state = _State.CLOSING
        close = partial(self._distribution.shut, self._end)
        if not is_somebody_ready:
            self._end()
        elif self._sock.bar():
            self._barring = Barring(self._loop, self._sock, close)
        else:
            close()

    def _end(self) -> None:
        """Finish closing: every connection that had come was picked up."""
        if self.are_closing:
            self._state = _State.CLOSED
            leavers, self.leavers = self.leavers, set()
            self._on_closed(leavers)

    def open(self) -> None:
        """Open again for a worker that is not to leave."""
        self.cancel()
        self._end()
        self._state = _State.OPEN

    def cancel(self) -> None:
        """Stop closing: the listener ends anyway."""
        if self._barring is not None:
            self._barring.cancel()
            self._barring = None
