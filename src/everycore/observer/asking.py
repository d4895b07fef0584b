"""What the observer knows of the service: asked for when somebody wants to know it, for all who wait at once.

Invariant: an answer is never older than the question that it is given to, but for `SHORTEST` seconds; so
however many ask here, the primary is asked so often at most.
"""

from __future__ import annotations

import asyncio
from typing import Final, Generic, Protocol, TypeVar

from everycore.core import control

T = TypeVar("T")

#: Seconds between two questions of a kind at least.
SHORTEST: Final = 0.02


class Asker(Protocol):
    """What asks the primary: a `PrimaryLine`."""

    async def ask(self, request: control.Request, kind: type[T]) -> T:
        """Its answer. Raises ControlError."""


class Asked(Generic[T]):
    """One question."""

    def __init__(self, line: Asker, request: control.Request, kind: type[T]) -> None:
        self._line = line
        self._request = request
        self._kind = kind
        self._lock = asyncio.Lock()
        self._answer: T | None = None
        self._at = 0.0

    async def now(self) -> T:
        """The answer. Raises ControlError."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with self._lock:
            if self._answer is None or self._at < begun - SHORTEST:
                at = loop.time()
                self._answer = None
                self._answer = await self._line.ask(self._request, self._kind)
                self._at = at
            return self._answer
