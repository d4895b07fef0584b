"""Keeps optional modules from being imported that a process of everycore's does not use.

asyncio imports `ssl`, which loads OpenSSL: 1.3 MB and some 10 ms. msgspec imports `typing_extensions`. Both
work without (a Python can be built without OpenSSL, and `typing_extensions` need not be installed). The
primary of `everycore serve` and `everycore run` executes no user code and speaks no TLS. In uvicorn, only the
reloader of its own command uses `watchfiles`. Invariant: a module that was left out can be imported later,
and is complete then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Make `import name` raise ImportError within the block, unless the module has been imported."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # the import system allows None
    try:
        yield
    finally:
        for name in absent:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)
