"""The types of ASGI, by the names of its specification (version 3.0)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


def name_of(scope: Scope | None) -> str:
    """The name of a request in a log line, for example "GET /path from 127.0.0.1:4711"."""
    if not scope or "path" not in scope:
        return "a request that is still incomplete"
    client = scope.get("client")
    whose = f" from {client[0]}:{client[1]}" if client else ""
    return f"{scope.get('method') or 'WebSocket'} {scope['path']}{whose}"
