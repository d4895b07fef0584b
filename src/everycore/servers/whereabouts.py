"""Where a task waits: the stack of a coroutine that is not running.

It follows the chain of awaits from the task inwards. asyncio's own `Task.get_stack` shows only the outermost
frame.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from traceback import StackSummary
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any, Final

#: The attributes of a coroutine, a generator and an asynchronous generator: the frame, and what it awaits.
_NAMES: Final = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))


def whereabouts(task: asyncio.Task[Any]) -> str:
    """The lines at which `task` waits, outermost first, as in a traceback, without everycore's own frames."""
    frames = ((frame, number) for frame, number in _frames(task.get_coro()) if not _is_ours(frame))
    return "".join(StackSummary.extract(frames).format()).rstrip("\n") or "  (not in Python code)"


def _frames(awaited: Any) -> Iterator[tuple[FrameType, int]]:
    seen = set()
    while awaited is not None and id(awaited) not in seen:
        seen.add(id(awaited))
        for frame_name, next_name in _NAMES:
            frame = getattr(awaited, frame_name, None)
            if frame is not None:
                yield frame, frame.f_lineno
                awaited = getattr(awaited, next_name, None)
                break
        else:
            awaited = _behind(awaited)


def _behind(awaited: Any) -> Any:
    """The coroutine behind an awaitable without a frame, which `async for` and `__aexit__` await, or None."""
    found = gc.get_referents(awaited)
    return next((item for item in found if isinstance(item, (AsyncGeneratorType, CoroutineType))), None)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("everycore.")
