"""Whether this worker takes connections: with its first listener, or, if it holds that off, when it says so.

The primary derives the same answer, by the same rules, from the worker's messages. The worker has to know it
as well, because under the policy `shared` the primary can't keep a listener from a worker that is not ready.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from everycore.core import wire

if TYPE_CHECKING:
    from everycore.worker.listening.link import Link


class Stage(enum.Enum):
    """How far the worker has got with its start."""

    #: It will be ready with its first listener.
    STARTING = enum.auto()
    #: It will be ready when it says so.
    HELD = enum.auto()
    READY = enum.auto()


class Readiness:
    """The readiness of this worker. Any thread may call `hold` and `ready`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._stage = Stage.STARTING
        self._waiting: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = []
        #: When this worker got its first listener or declared itself ready, by the monotonic clock. If its
        #: program fails after that, the failure does not count as a failure to start.
        self.listens_since: float | None = None

    @property
    def has_listened(self) -> bool:
        """Whether this worker has ever had a listener, or has declared itself ready."""
        return self.listens_since is not None

    def listens(self) -> None:
        """Record that the worker has got a listener, or declares itself ready."""
        if self.listens_since is None:
            self.listens_since = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """Whether this worker takes connections."""
        return self._stage is Stage.READY

    @property
    def is_settled(self) -> bool:
        """Whether a listener that the primary does not see changes nothing.

        That is so if the worker is ready already, or will declare itself ready.
        """
        return self._stage is not Stage.STARTING

    def hold(self) -> None:
        """Do not count as ready with the first listener. Raises ChannelClosed."""
        self._link.tell(wire.HoldReady())
        if not self.is_ready:
            self._stage = Stage.HELD

    def ready(self) -> None:
        """Take connections from now on. Raises ChannelClosed."""
        self.listens()
        self._link.tell(wire.ReadyNow())
        self._stage = Stage.READY
        self._tell()

    def serves(self) -> None:
        """A listener begins to serve. The first one makes the worker ready, unless `hold` was called."""
        self.listens()
        if self._stage is Stage.STARTING:
            self._stage = Stage.READY

    def when_ready(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        """A listener begins to serve on `loop`: call `callback` there once the worker is ready, maybe now."""
        self.serves()
        if self.is_ready:
            callback()
            return
        self._waiting.append((loop, callback))
        if self.is_ready:  # another thread has called `ready` in the meantime
            self._tell()

    def _tell(self) -> None:
        waiting = self._waiting
        while waiting:
            loop, callback = waiting.pop(0)
            if not loop.is_closed():
                loop.call_soon_threadsafe(callback)
