"""Numbers of the kernel's interface that several layers need."""

from __future__ import annotations

from typing import Final

#: Bytes of a unix socket's path with its final NUL: sun_path of sockaddr_un (unix(7)).
LONGEST_PATH: Final = 108
#: The first descriptor that is no standard stream (stdin(3)).
FIRST_OTHER: Final = 3
