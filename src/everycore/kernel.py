"""The parts of the kernel's interface that several layers need: numbers and errors."""

from __future__ import annotations

import os
from typing import Final

#: The size of a unix socket's path in bytes, with its final NUL: sun_path of sockaddr_un (unix(7)).
LONGEST_PATH: Final = 108
#: The first descriptor that is not a standard stream (stdin(3)).
FIRST_OTHER: Final = 3


def os_error(number: int) -> OSError:
    """The OSError with this number and the kernel's text. Python picks the subclass, if it has one."""
    return OSError(number, os.strerror(number))
