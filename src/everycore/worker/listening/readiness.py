"""Whether this worker takes connections: with its first listener, or, if it holds that off, when it says so.

The primary knows the same, by the same rules, from what it hears of the worker. The worker has to know it as
well: under the policy `shared` the primary can't keep a listener from a worker that is not ready.
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
    """How far the worker is."""

    #: It is ready with its first listener.
    STARTING = enum.auto()
    #: It is ready when it says so.
    HELD = enum.auto()
    READY = enum.auto()


class Readiness:
    """The readiness of this worker. Any thread may call `hold` and `ready`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._stage = Stage.STARTING
        self._waiting: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = []
        #: When this worker got its first listener, or said that it is ready, by the monotonic clock: from
        #: then on the failure of its program is no failure to start.
        self.listens_since: float | None = None

    @property
    def has_listened(self) -> bool:
        """Whether this worker has got a listener, now or before, or has said that it is ready."""
        return self.listens_since is not None

    def listens(self) -> None:
        """It has got a listener, or says that it is ready."""
        if self.listens_since is None:
            self.listens_since = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """Whether this worker takes connections."""
        return self._stage is Stage.READY

    @property
    def is_settled(self) -> bool:
        """Whether a listener that the primary does not see changes nothing: it is ready, or will say so."""
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
        """A listener begins to serve: the first one makes the worker ready, unless it holds that off."""
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
        if self.is_ready:  # another thread has said so meanwhile
            self._tell()

    def _tell(self) -> None:
        waiting = self._waiting
        while waiting:
            loop, callback = waiting.pop(0)
            if not loop.is_closed():
                loop.call_soon_threadsafe(callback)
