"""The text of a traceback, as Python prints it.

This module formats an exception, from a given frame on. Invariant: formatting itself raises nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import TracebackType


def traceback_text(error: BaseException, tail: TracebackType | None) -> str:
    """The traceback of `error` from `tail` on. Its causes and contexts keep their own tracebacks."""
    try:
        return _format(error, tail)
    except BaseException:
        # For a missing submodule, Python 3.15 imports the package again to suggest a name. An exception of
        # the package comes out here. Python itself then prints the text without the suggestion.
        names = [(missing, missing.name) for missing in _missing_modules(error)]
        for missing, _ in names:
            missing.name = None
        try:
            return _format(error, tail)
        finally:
            for missing, name in names:
                missing.name = name


def _format(error: BaseException, tail: TracebackType | None) -> str:
    lines = traceback.TracebackException(type(error), error, tail, compact=True).format()
    return "".join(lines).rstrip("\n")


def _missing_modules(error: BaseException) -> Iterator[ModuleNotFoundError]:
    """The errors about missing modules among `error`, its causes and contexts, and its groups."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        todo += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
        if isinstance(one, ModuleNotFoundError):
            yield one
