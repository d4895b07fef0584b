"""The small parts of listening to something: a subscription, and what may be called.

Invariant: a callback that raises hurts nobody: it is logged with its name and traceback, and others still
run.
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
    """Ends what it began when cancelled, or when its `with` block ends. Again: nothing happens."""

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    def cancel(self) -> None:
        """End it. What was subscribed is not called again."""
        end, self._end = self._end, None
        if end is not None:
            end()

    @property
    def is_active(self) -> bool:
        """Whether it was not cancelled yet."""
        return self._end is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.cancel()


def is_coroutine_function(function: Any) -> bool:
    """Whether calling `function` gives a coroutine (or an async generator) that somebody must run."""
    return any(
        inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate)
        for candidate in (function, getattr(function, "__call__", None))  # noqa: B004 - the method is meant
    )


def check_plain(callback: Any) -> None:
    """Raise TypeError unless `callback` is a plain function.

    A coroutine function would have to be run as a task that nobody waits for: its errors and its order
    would be lost. Those who want to await iterate over `events()` or `messages()`.
    """
    if not callable(callback):
        raise TypeError(f"a callback must be callable, not {type(callback).__name__}")
    if is_coroutine_function(callback):
        raise TypeError(f"a callback must be a plain function; {name_of(callback)} is a coroutine function")


def once(
    subscribe: Callable[[Callable[[Any], object]], Subscription], callback: Callable[[Any], object]
) -> Subscription:
    """Call `callback` with the first of what `subscribe` gives alone."""
    check_plain(callback)

    def call(argument: Any) -> None:
        subscription.cancel()
        callback(argument)

    call.__qualname__ = name_of(callback)
    subscription = subscribe(call)
    return subscription


def name_of(function: Any) -> str:
    """What to call `function` in a log or an error."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else repr(function)


def call_back(callback: Callable[[Any], object], argument: Any) -> None:
    """Call it; log what it raises."""
    try:
        callback(argument)
    except Exception as error:
        log_failure(callback, argument, error)


def log_failure(callback: Callable[[Any], object], argument: Any, error: Exception) -> None:
    """Say that `callback` raised."""
    log.error("the callback %s failed on %s", name_of(callback), type(argument).__name__, exc_info=error)
