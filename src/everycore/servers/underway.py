"""The requests that an application works on, as ASGI shows them, for an engine without a list of its own.

Invariant: every task in the list is still inside the application.
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
        """The running task has begun to serve `scope`. Returns the task."""
        task = asyncio.current_task()
        assert task is not None
        self._scopes[task] = scope
        return task

    def end(self, task: asyncio.Task[None]) -> None:
        """`task` has served its request. Does nothing if that is known already."""
        self._scopes.pop(task, None)

    def tasks(self) -> list[asyncio.Task[None]]:
        """All tasks that serve a request."""
        return list(self._scopes)

    def scopes(self) -> list[Scope]:
        """The scopes that these tasks serve."""
        return list(self._scopes.values())
