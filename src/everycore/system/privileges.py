"""What a process gives up for good when it becomes another user, besides the user.

Called in the child between fork and exec, when it has its new user. Facts (capabilities(7), prctl(2)): a root
that becomes another user loses its capabilities by that; another user who had CAP_SETUID keeps them, and
exec passes the ambient ones on. `no_new_privs` is for good and is inherited: no program that is set-uid or
has file capabilities gives any of it back, so the bounding set does not matter.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Final

from everycore.kernel import os_error

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
#: _LINUX_CAPABILITY_VERSION_3, and this process; then two times effective, permitted, inheritable: none.
_CAPABILITY_HEADER: Final = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)
_NO_CAPABILITIES: Final = bytes(24)


def giving_up() -> Callable[[], None]:
    """A function for the child; it raises OSError if the kernel refuses.

    Raises OSError (ENOSYS) where there is no ctypes: such a worker would not be confined.
    """
    try:
        import ctypes
    except ImportError:
        raise os_error(errno.ENOSYS) from None
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(_CAPABILITY_HEADER, len(_CAPABILITY_HEADER))
    data = ctypes.create_string_buffer(_NO_CAPABILITIES, len(_NO_CAPABILITIES))

    def give_up() -> None:
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.capset(header, data):
            raise os_error(ctypes.get_errno())
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)  # capset has emptied them already

    return give_up
