"""The requests that an application works on, as ASGI shows them: for an engine that has no list for us.

Invariant: what is in the list is a task that has not left the application.
"""

from __future__ import annotations

import asyncio

from everycore.servers.asgi import Scope


class UnderWay:
    """Requests and WebSockets, each by the task in which the application serves it."""

    def __init__(self) -> None:
        self._scopes: dict[asyncio.Task[None], Scope] = {}

    def __len__(self) -> int:
        return len(self._scopes)

    def begin(self, scope: Scope) -> asyncio.Task[None]:
        """The running task has begun on it."""
        task = asyncio.current_task()
        assert task is not None
        self._scopes[task] = scope
        return task

    def end(self, task: asyncio.Task[None]) -> None:
        """It is over; again: nothing."""
        self._scopes.pop(task, None)

    def tasks(self) -> list[asyncio.Task[None]]:
        """All of them."""
        return list(self._scopes)

    def scopes(self) -> list[Scope]:
        """What they serve."""
        return list(self._scopes.values())
