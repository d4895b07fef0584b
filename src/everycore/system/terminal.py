"""Whether this process has a controlling terminal (tty(4), credentials(7))."""

from __future__ import annotations

import os


def has_terminal() -> bool:
    """Whether /dev/tty can be opened. It cannot (ENXIO) without a terminal, and after a hang-up."""
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    os.close(fd)
    return True
