"""What several layers need of the kernel's interface: numbers, and its errors."""

from __future__ import annotations

import os
from typing import Final

#: Bytes of a unix socket's path with its final NUL: sun_path of sockaddr_un (unix(7)).
LONGEST_PATH: Final = 108
#: The first descriptor that is no standard stream (stdin(3)).
FIRST_OTHER: Final = 3


def os_error(number: int) -> OSError:
    """The error of this number, in the kernel's words: of the child of `OSError` that Python has for it."""
    return OSError(number, os.strerror(number))
