"""`after_fork`: what an application does in each worker that a mold has made, before its program begins."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Final, TypeVar

F = TypeVar("F", bound=Callable[[], object])

_hooks: Final[list[Callable[[], object]]] = []
_is_forked = False


def after_fork(function: F) -> F:
    """Call `function()` in each worker that is forked from a mold (`preload`), before its program begins.

    It is where connections are closed that the import has opened, and generators of random numbers seeded.
    Functions are called in the order in which they were given; what one raises is a failure to start. In
    every other process, a worker that is a fresh interpreter included, nothing is called. Returns `function`,
    so it can stand as a decorator.

    Raises: TypeError for what cannot be called, and for a coroutine function: no loop runs yet.
    """
    given: object = function
    if not callable(given) or iscoroutinefunction(given):
        raise TypeError(f"after_fork() takes a plain function, not {function!r}")
    _hooks.append(function)
    return function


def has_forked() -> None:
    """This process is a worker that a mold has made."""
    global _is_forked
    _is_forked = True


def run_hooks() -> None:
    """Call them all, once; nothing in a process that no mold has made."""
    global _is_forked
    if _is_forked:
        _is_forked = False
        for function in tuple(_hooks):
            function()
