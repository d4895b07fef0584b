"""What the observer knows of the service. It asks the primary on demand, once for all clients that wait.

Invariant: an answer is at most `SHORTEST` seconds older than the request that gets it. So the primary is
asked at most once in that time, however many clients ask here.
"""

from __future__ import annotations

import asyncio
from typing import Final, Generic, Protocol, TypeVar

from everycore.core import control

T = TypeVar("T")

#: The least time between two questions of a kind, in seconds.
SHORTEST: Final = 0.02


class Asker(Protocol):
    """Asks the primary: a `PrimaryLine`."""

    async def ask(self, request: control.Request, kind: type[T]) -> T:
        """Return the primary's answer. Raises ControlError."""


class Asked(Generic[T]):
    """One question to the primary, and its latest answer."""

    def __init__(self, line: Asker, request: control.Request, kind: type[T]) -> None:
        self._line = line
        self._request = request
        self._kind = kind
        self._lock = asyncio.Lock()
        self._answer: T | None = None
        self._at = 0.0

    async def now(self) -> T:
        """Return the current answer. Raises ControlError."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with self._lock:
            if self._answer is None or self._at < begun - SHORTEST:
                at = loop.time()
                self._answer = None
                self._answer = await self._line.ask(self._request, self._kind)
                self._at = at
            return self._answer
