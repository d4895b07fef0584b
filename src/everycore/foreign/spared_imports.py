"""Modules that others import if available, but that some of everycore's processes do not need.

asyncio imports `ssl`, which loads OpenSSL: 1.3 MB and some 10 ms. msgspec imports `typing_extensions`. Both
work without them (a Python may be built without OpenSSL, and `typing_extensions` need not be installed). The
primary of `everycore serve` and `everycore run` executes no code of the user's and does not speak TLS. Of
uvicorn's modules only the reloader of its own command uses `watchfiles`. Invariant: a spared module can be
imported later, and is then complete.
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
