"""The small parts of subscribing to something: `Subscription`, and the checks and calls of callbacks.

Invariant: a callback that raises does no harm. It is logged with its name and traceback, and the other
callbacks still run.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

log: Final = logging.getLogger("everycore.aio")


class Subscription:
    """Ends when it is cancelled, or when its `with` block ends. Cancelling it again does nothing."""

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    def cancel(self) -> None:
        """End the subscription. The callback or handler is not called again."""
        end, self._end = self._end, None
        if end is not None:
            end()

    @property
    def is_active(self) -> bool:
        """Whether the subscription is not cancelled yet."""
        return self._end is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.cancel()


def is_coroutine_function(function: Any) -> bool:
    """Whether calling `function` returns a coroutine or an async generator, which must be run."""
    return any(
        inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate)
        for candidate in (function, getattr(function, "__call__", None))  # noqa: B004 - the method is meant
    )


def check_plain(callback: Any) -> None:
    """Raise TypeError unless `callback` is a plain function.

    A coroutine function would have to run as a task that nobody awaits: its errors and its order would be
    lost. To await, iterate over `events()` or `messages()` instead.
    """
    if not callable(callback):
        raise TypeError(f"a callback must be callable, not {type(callback).__name__}")
    if is_coroutine_function(callback):
        raise TypeError(f"a callback must be a plain function; {name_of(callback)} is a coroutine function")


def once(
    subscribe: Callable[[Callable[[Any], object]], Subscription], callback: Callable[[Any], object]
) -> Subscription:
    """Call `callback` with the first item that `subscribe` delivers, and with no other."""
    check_plain(callback)

    def call(argument: Any) -> None:
        subscription.cancel()
        callback(argument)

    call.__qualname__ = name_of(callback)
    subscription = subscribe(call)
    return subscription


def name_of(function: Any) -> str:
    """Return a name for `function` in a log or an error."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else repr(function)


def call_back(callback: Callable[[Any], object], argument: Any) -> None:
    """Call `callback` and log any exception."""
    try:
        callback(argument)
    except Exception as error:
        log_failure(callback, argument, error)


def log_failure(callback: Callable[[Any], object], argument: Any, error: Exception) -> None:
    """Log that `callback` raised."""
    log.error("the callback %s failed on %s", name_of(callback), type(argument).__name__, exc_info=error)
