"""Whether a worker that shares a listener is to take no connections: the primary's `Rest` lies on its belt.

`RestWatch` tells the reader of the listener when that message comes and when it is gone. Without it, a
program whose loop does not read everycore's channel would go on taking connections after it was asked to
leave: it is asked by a signal, to which it reacts when its last connection is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from everycore.aio.deadline import Deadline

#: How often to look while a `Rest` lies on the belt, in seconds: nothing announces that it is taken away.
LOOK: Final = 0.05


class Rester(Protocol):
    """The part of a shared listener that this module uses."""

    def belt_fileno(self) -> int:
        """The belt's descriptor; -1 once it is closed."""

    def rests(self) -> bool:
        """Whether this worker is to take no connections now."""


class RestWatch:
    """Calls `on_change` when the worker is to rest, and when the rest is over.

    `is_on`: whether the worker is to rest now.
    """

    __slots__ = ("_fd", "_looking", "_loop", "_on_change", "_sock", "is_on")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: Rester, on_change: Callable[[], None]) -> None:
        self._loop = loop
        self._sock = sock
        self._on_change = on_change
        self._fd = sock.belt_fileno()
        self._looking = Deadline(loop, self._look)
        self.is_on = False
        loop.add_reader(self._fd, self._begin)

    def close(self) -> None:
        """Stop watching. The socket is about to be closed."""
        self._loop.remove_reader(self._fd)
        self._looking.set(None)

    def _begin(self) -> None:
        # The `Rest` stays on the belt, so the loop would call a reader in every turn.
        self._loop.remove_reader(self._fd)
        self.is_on = True
        self._looking.set_in(LOOK)
        self._on_change()

    def _look(self) -> None:
        if self._sock.rests():
            self._looking.set_in(LOOK)
            return
        self.is_on = False
        self._loop.add_reader(self._fd, self._begin)
        self._on_change()
