"""What else a process gives up for good when it becomes another user.

This runs in the child between fork and exec, when it has its new user. Facts (capabilities(7), prctl(2)):
root loses its capabilities when it becomes another user. Another user with CAP_SETUID keeps them, and exec
passes the ambient ones on. `no_new_privs` is permanent and is inherited: no program that is set-uid or has
file capabilities restores a privilege, so the bounding set does not matter.
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
#: _LINUX_CAPABILITY_VERSION_3 and pid 0, this process. Below: no effective, permitted or inheritable
#: capability, twice.
_CAPABILITY_HEADER: Final = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)
_NO_CAPABILITIES: Final = bytes(24)


def giving_up() -> Callable[[], None]:
    """Return a function for the child. It raises OSError if the kernel refuses.

    Raises OSError (ENOSYS) without ctypes: the worker would not be confined.
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
