"""`after_fork`: functions that an application has called in each forked worker before its program begins."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Final, TypeVar

F = TypeVar("F", bound=Callable[[], object])

_hooks: Final[list[Callable[[], object]]] = []
_is_forked = False


def after_fork(function: F) -> F:
    """Call `function()` in each worker that is forked from a mold (`preload`), before its program begins.

    Use it to close connections that the import has opened, and to seed random number generators. The
    functions are called in the order in which they were given. If one raises, that is a failure to start. In
    every other process, including a worker that is a fresh interpreter, none is called. Returns `function`,
    so it can be used as a decorator.

    Raises: TypeError for an object that can't be called, and for a coroutine function: no loop runs yet.
    """
    given: object = function
    if not callable(given) or iscoroutinefunction(given):
        raise TypeError(f"after_fork() takes a plain function, not {function!r}")
    _hooks.append(function)
    return function


def has_forked() -> None:
    """Remember that a mold has made this process."""
    global _is_forked
    _is_forked = True


def run_hooks() -> None:
    """Call all functions, once. Does nothing in a process that was not forked from a mold."""
    global _is_forked
    if _is_forked:
        _is_forked = False
        for function in tuple(_hooks):
            function()
