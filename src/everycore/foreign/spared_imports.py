"""Modules that others import when they are there, and that one of our own processes has no use for.

asyncio imports `ssl`, which loads OpenSSL: 1.3 MB and some 10 ms. msgspec imports `typing_extensions`. Each
of them does without (a Python can be built without OpenSSL, and `typing_extensions` need not be installed).
The primary of `everycore serve` and `everycore run` executes no code of a user's and speaks no TLS. Of
uvicorn's modules only the reloader of its own command uses `watchfiles`. Invariant: what was spared can be
imported afterwards, and is complete then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let `import name` raise ImportError within the block, unless the module is imported already."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None: as the import system has it
    try:
        yield
    finally:
        for name in absent:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)
