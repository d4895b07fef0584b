"""The private part of `sys` that everycore uses.

Up to Python 3.11 the interpreter's attribute cache holds the names of attributes that were looked up. A
worker that was forked from a mold replaces entries. Each replacement writes to the old name, a string
anywhere in memory, and the kernel copies its page. With FastAPI and numpy that is 0.5 MB for each worker, and
as much for the mold. Since Python 3.12 names are immortal, and nothing is written. Without the private part,
a worker copies more.
"""

from __future__ import annotations

import sys

from everycore.foreign import is_allowed


def forget_names() -> None:
    """Empty the attribute cache, if its names have reference counts."""
    clear = getattr(sys, "_clear_type_cache", None)
    if sys.version_info < (3, 12) and clear is not None and is_allowed("sys.type_cache"):
        clear()
