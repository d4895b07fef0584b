"""Keeps the memory of workers shared with their mold.

An object takes the first free place of its size. After an import, free places are scattered over all of the
memory, a few on each page, and the kernel copies each page that a worker writes to. So the mold fills these
places, which takes no additional memory. The objects of a worker then lie together, on pages of their own.
(Four workers of FastAPI and numpy use 1 MB less each, and so does the mold.)
"""

from __future__ import annotations

import gc
from typing import Final

from everycore.foreign.sys_internals import forget_names

#: The sizes of Python's small objects (obmalloc.c), in bytes: the largest, and the step between two sizes.
_LARGEST: Final = 512
_STEP: Final = 16
#: This many adjacent places show that the allocator has begun a new pool.
_IN_A_ROW: Final = 24
#: Most objects of one size: a limit in case the allocator works differently.
_MOST: Final = 200_000

_fillers: Final[list[list[bytes]]] = []


def settle() -> None:
    """Collect garbage, fill the free places, and remove all objects from the collector's sight.

    Otherwise a collection in a worker would write to every object.
    """
    gc.collect()
    forget_names()
    empty = bytes(0).__sizeof__()
    for size in range(_STEP * 3, _LARGEST + 1, _STEP):
        _fillers.append(_filled(size, size - empty))
    gc.freeze()


def _filled(size: int, length: int) -> list[bytes]:
    """Make objects of that size until they lie next to each other."""
    found: list[bytes] = []
    in_a_row = before = 0
    for _ in range(_MOST):
        one = bytes(length)
        found.append(one)
        in_a_row = in_a_row + 1 if abs(id(one) - before) == size else 0
        before = id(one)
        if in_a_row >= min(_IN_A_ROW, 4096 // size - 1):
            break
    return found
