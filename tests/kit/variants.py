"""Which variants of a slow test a complete run leaves out: half of them.

A test with real processes often has parameters: the policy, the loop, or the way to start. A run that names
the test's file runs all variants, and so does continuous integration. A complete run takes every other one,
like the squares of one colour, so that each value of a parameter still occurs where there are several
parameters. The oldest Python and the newer ones take different halves.
"""

import sys
from collections.abc import Mapping
from typing import Any
from zlib import crc32


def left_out(
    test: str, variants: Mapping[str, Mapping[str, Any]], minor: int = sys.version_info[1]
) -> set[str]:
    """The variants of `test` that a whole run on Python 3.`minor` leaves out.

    variants: the parameters of each and their values. Parameters that vary together count as one.
    """
    places: dict[tuple[int, ...], None] = {}
    for name in next(iter(variants.values()), {}):
        column = [repr(values.get(name)) for values in variants.values()]
        order = {value: place for place, value in enumerate(dict.fromkeys(column))}
        places[tuple(order[value] for value in column)] = None
    colour = (crc32(test.encode()) + minor // 4) % 2
    out = {name for at, name in enumerate(variants) if sum(column[at] for column in places) % 2 != colour}
    return set() if len(out) == len(variants) else out
