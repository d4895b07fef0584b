"""Python's garbage collector, switched off while one of everycore's own processes starts.

What a start imports is not garbage, and examining it again and again takes a tenth of the start (374 ms of
processor time for a worker of `serve`, 333 ms without, measured). A user's program is left alone: it finds
the collector as it was.
"""

from __future__ import annotations

import gc

_rests = False


def rest() -> None:
    """Switch the collector off until `collect_again`."""
    global _rests
    _rests = gc.isenabled()
    gc.disable()


def collect_again() -> None:
    """Switch the collector on again. Does nothing if `rest` did not switch it off."""
    global _rests
    if _rests:
        _rests = False
        gc.enable()
