"""Tells ASGI from WSGI, and turns either into an ASGI application, which an engine can serve.

Invariant: an application is never called to find out what it is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

from everycore.servers.asgi import Asgi, Receive, Scope, Send
from everycore.servers.loading import CannotBootError
from everycore.servers.wsgi import WsgiApp


def as_asgi(app: Callable[..., Any], interface: str, threads: int = 10) -> Asgi:
    """The application as ASGI. A WSGI application runs in a pool of `threads` threads."""
    match detect(app) if interface == "auto" else interface:
        case "wsgi":
            return WsgiApp(app, threads)
        case "asgi2":
            return _single(app)
    return app


def _single(app: Callable[..., Any]) -> Asgi:
    """An ASGI 2 application, which makes an instance for each scope, as ASGI 3."""

    async def single(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope)(receive, send)

    return single


def detect(app: Callable[..., Any]) -> Literal["asgi", "wsgi"]:
    """Tell which it is. ASGI is a coroutine function, or takes three arguments; WSGI takes two."""
    if _is_async(app):
        return "asgi"
    count = _required_arguments(app)
    if count == 3:
        return "asgi"
    if count == 2:
        return "wsgi"
    if count == 1:
        raise CannotBootError(
            "the application takes one argument: if it is ASGI 2, say so with --interface asgi2; "
            "if it makes the application, use --factory"
        )
    if count == 0:
        raise CannotBootError("the application takes no argument: if it makes the application, use --factory")
    raise CannotBootError("cannot tell whether the application is ASGI or WSGI: say so with --interface")


def _is_async(app: Callable[..., Any]) -> bool:
    while isinstance(app, functools.partial):
        app = app.func
    return inspect.iscoroutinefunction(app) or (
        not inspect.isclass(app) and inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004
    )


def _required_arguments(app: Callable[..., Any]) -> int | None:
    """How many positional arguments it requires, or None if that can't be known."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):  # written in C, without a signature
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(
        parameter.kind in positional and parameter.default is parameter.empty for parameter in parameters
    )
