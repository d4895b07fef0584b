"""Whether a worker that shares a listener is to take nobody: a `Rest` of the primary lies on its belt.

Tells who takes connections when that message comes and when it is gone. Without it, a program whose loop
reads no channel of ours would go on taking connections after it was asked to leave: it is asked by a signal,
which it answers when its last connection is closed. Must not import the primary's side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

#: Nothing tells when the `Rest` is taken away: how often to look while it lies there, in seconds.
LOOK: Final = 0.05


class Rester(Protocol):
    """A shared listener, as this module needs it."""

    def belt_fileno(self) -> int:
        """The belt; -1 once it is closed."""

    def rests(self) -> bool:
        """Whether this worker is to take nothing now."""


class RestWatch:
    """Calls `on_change` when the worker is to rest, and when it is not any more. `is_on`: it is to rest."""

    __slots__ = ("_fd", "_loop", "_on_change", "_sock", "_timer", "is_on")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: Rester, on_change: Callable[[], None]) -> None:
        self._loop = loop
        self._sock = sock
        self._on_change = on_change
        self._fd = sock.belt_fileno()
        self._timer: asyncio.TimerHandle | None = None
        self.is_on = False
        loop.add_reader(self._fd, self._begin)

    def close(self) -> None:
        """The socket is about to be closed."""
        self._loop.remove_reader(self._fd)
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        # The `Rest` stays there: a reader would be called in every turn.
        self._loop.remove_reader(self._fd)
        self.is_on = True
        self._timer = self._loop.call_later(LOOK, self._look)
        self._on_change()

    def _look(self) -> None:
        if self._sock.rests():
            self._timer = self._loop.call_later(LOOK, self._look)
            return
        self._timer = None
        self.is_on = False
        self._loop.add_reader(self._fd, self._begin)
        self._on_change()
