"""The private part of `sys` that everycore uses.

Up to Python 3.11 the interpreter's cache of attributes holds the names that were looked up. A worker that a
mold has made replaces entries, and each replacement writes to the old name, a string anywhere in memory, so
the kernel copies a page for it. With FastAPI and numpy that is 0.5 MB for each worker, and as much for the
mold. Names are immortal since Python 3.12, so nothing is written. Without the private part a worker copies
more.
"""

from __future__ import annotations

import sys

from everycore.foreign import is_allowed


def forget_names() -> None:
    """Empty the cache of attributes, where its names count references."""
    clear = getattr(sys, "_clear_type_cache", None)
    if sys.version_info < (3, 12) and clear is not None and is_allowed("sys.type_cache"):
        clear()
