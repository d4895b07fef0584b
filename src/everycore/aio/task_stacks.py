"""Prints where the tasks of an event loop wait, which the stack of a thread with an idle loop does not show.

The handler runs in Python, unlike the one for the stacks of threads (`worker.signals`): a blocked loop prints
its tasks when it goes on. Invariant: the output is bounded, however many tasks there are; the signal has no
other effect and interrupts no system call of the program.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from everycore.system import inherited
from everycore.system.stacks import TASKS

#: The most places that are printed, and the most frames of each.
MOST_PLACES: Final = 20
MOST_FRAMES: Final = 40
#: Attributes of coroutines, generators and asynchronous generators: the frame, and what it waits for.
_FRAMES: Final = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED: Final = ("cr_await", "gi_yieldfrom", "ag_await")


def print_tasks_when_asked(fd: int = 2) -> None:
    """Let the primary's signal print the tasks of the main thread's loop to `fd`. Call it in that thread."""

    def show(*_: object) -> None:
        try:
            os.write(
                fd, "".join(f"{line}\n" for line in task_lines(_tasks())).encode(errors="backslashreplace")
            )
        except OSError:  # the output has no reader
            pass

    signal.signal(TASKS, show)
    signal.siginterrupt(TASKS, False)
    inherited.hear((TASKS,))


def _tasks() -> Iterable[Any]:
    """The tasks of the loop that runs here, without the current one."""
    asyncio = sys.modules.get("asyncio")  # not imported: this runs in a signal handler
    try:
        if asyncio is not None:
            found: Iterable[Any] = asyncio.all_tasks() - {asyncio.current_task()}
            return found
    except (RuntimeError, AttributeError):  # no loop runs, or asyncio is being imported
        pass
    return ()


def task_lines(tasks: Iterable[Any]) -> Iterator[str]:
    """Where the tasks wait: tasks at one place together, the largest group first."""
    places = Counter(tuple(_frames(task.get_coro())) for task in tasks)
    for frames, count in places.most_common(MOST_PLACES):
        waiting = "1 task waits" if count == 1 else f"{count} tasks wait"
        yield f"{waiting} in the event loop of pid {os.getpid()} (most recent call first):"
        yield from (f'  File "{file}", line {line} in {name}' for file, line, name in reversed(frames))
    if len(places) > MOST_PLACES:
        yield f"... and others, at {len(places) - MOST_PLACES} places"


def _frames(waiting: Any) -> Iterator[tuple[str, int | None, str]]:
    """The frames from the outermost coroutine to the innermost."""
    for _ in range(MOST_FRAMES):
        if waiting is None:
            return
        if (frame := _first(waiting, _FRAMES)) is not None:
            yield frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        waiting = _first(waiting, _AWAITED) or _generator_of(waiting)


def _generator_of(step: Any) -> Any:
    """The generator of one step of an asynchronous generator (`async for`), which has no attribute for it."""
    if type(step).__name__ not in ("async_generator_asend", "async_generator_athrow"):
        return None
    return next((found for found in gc.get_referents(step) if hasattr(found, "ag_frame")), None)


def _first(thing: Any, names: tuple[str, ...]) -> Any:
    return next((found for name in names if (found := getattr(thing, name, None)) is not None), None)
