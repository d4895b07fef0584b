"""What keeps the memory of workers shared.

A worker that makes an object takes the first free place of its size. After an import these lie scattered over
all of the memory, a few on each page, and each page on which a worker writes is copied for it. So the mold
fills them, with what takes no memory that was not there: what workers make lies together, on pages of their
own. (Four workers of FastAPI and numpy: 1 MB less for each, and for the mold.)
"""

from __future__ import annotations

import gc
from typing import Final

from everycore.foreign.sys_internals import forget_names

#: Sizes of Python's small objects (obmalloc.c): up to this, in steps.
_LARGEST: Final = 512
_STEP: Final = 16
#: A new pool is recognized by so many places in a row.
_IN_A_ROW: Final = 24
#: No more of one size: a bound for an allocator that is another.
_MOST: Final = 200_000

_fillers: Final[list[list[bytes]]] = []


def settle() -> None:
    """Collect what is garbage, fill the holes, and take everything out of the collector's sight.

    A collection in a worker would write to every object.
    """
    gc.collect()
    forget_names()
    empty = bytes(0).__sizeof__()
    for size in range(_STEP * 3, _LARGEST + 1, _STEP):
        _fillers.append(_filled(size, size - empty))
    gc.freeze()


def _filled(size: int, length: int) -> list[bytes]:
    """Objects of that size, until they lie one behind the other."""
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
