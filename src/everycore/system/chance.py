"""A random number, to spread what must not happen at the same moment in many processes.

`random` would do as well, but it imports OpenSSL's hashes, which a primary needs for nothing else.
"""

from __future__ import annotations

import os


def fraction() -> float:
    """Return a number of at least 0 and less than 1, from the kernel (getrandom(2))."""
    return (int.from_bytes(os.urandom(7)) >> 3) * 2.0**-53
