"""Python's garbage collector, which rests while one of our own processes starts.

What a start imports is not garbage, and looking through it again and again takes a tenth of the start (374 ms
of processor time for a worker of `serve`, 333 without, measured). A program of a user's is left alone: it
finds the collector as it was.
"""

from __future__ import annotations

import gc

_rests = False


def rest() -> None:
    """Collect nothing until `collect_again`."""
    global _rests
    _rests = gc.isenabled()
    gc.disable()


def collect_again() -> None:
    """The start is over. Does nothing if `rest` was not called, or the collector was off already."""
    global _rests
    if _rests:
        _rests = False
        gc.enable()
