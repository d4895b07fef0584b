"""Whether this process has a controlling terminal (tty(4), credentials(7))."""

from __future__ import annotations

import os


def has_terminal() -> bool:
    """False without one, and once it was hung up: /dev/tty cannot be opened then (ENXIO)."""
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    os.close(fd)
    return True
