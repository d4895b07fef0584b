"""What everycore uses of the private parts of `threading` and of asyncio's current loop.

A signal handler of `everycore run` asks two things about the main thread: whether it has come to its end and
waits for other threads (`threading._shutdown` is on its stack), and whether it runs an event loop. The public
`asyncio.get_running_loop` tells the latter, but to import asyncio in a signal handler is too much.
"""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Final

from everycore.foreign import is_allowed

_shutdown: Final = getattr(threading, "_shutdown", None) if is_allowed("threading.shutdown") else None
_shutdown_code: Final = getattr(_shutdown, "__code__", None)


def waits_for_threads(frame: FrameType | None) -> bool:
    """Whether `frame`, of the main thread, lies within the interpreter's wait for other threads.

    Without the private parts nobody can tell, and such a program is ended as one that works.
    """
    while frame is not None:
        if frame.f_code is _shutdown_code:
            return True
        frame = frame.f_back
    return False


def runs_event_loop() -> bool:
    """Whether asyncio runs a loop in this thread; uvloop's is one of these."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except (RuntimeError, AttributeError):  # none; or asyncio is only being imported
        return False
    return True
