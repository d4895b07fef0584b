"""Opening a folder that another user may change meanwhile: by descriptors, step by step.

A primary that runs as root and binds a path for workers of another user needs this. A symbolic link in one of
their folders could otherwise make it bind, and remove, a file anywhere. Invariant: a link is followed only if
root or this process's own user has made it, and each step starts from the folder that the previous step has
opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import Final

from everycore.kernel import os_error

_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: The number of links that the kernel follows at most (path_resolution(7)).
_MOST_LINKS: Final = 40


def open_folder(path: bytes) -> int:
    """Open the folder `path`, which begins at the root, with O_PATH. The caller closes the descriptor.

    Raises OSError as open(2) does; ELOOP for a link of another user.
    """
    parts = deque(path.split(b"/"))
    links = 0
    folder = os.open(b"/", _FLAGS)
    try:
        while parts:
            part = parts.popleft()
            if part in (b"", b"."):
                continue
            step = os.open(part, _FLAGS, dir_fd=folder)
            try:
                found = os.fstat(step)
                if stat.S_ISDIR(found.st_mode):
                    folder, step = step, folder
                    continue
                if not stat.S_ISLNK(found.st_mode):
                    raise os_error(errno.ENOTDIR)
                links += 1
                if links > _MOST_LINKS or found.st_uid not in (0, os.geteuid()):
                    raise os_error(errno.ELOOP)
                target = os.readlink(b"", dir_fd=step)
            finally:
                os.close(step)
            parts.extendleft(reversed(target.split(b"/")))
            if target.startswith(b"/"):
                folder, step = os.open(b"/", _FLAGS), folder
                os.close(step)
    except BaseException:
        os.close(folder)
        raise
    return folder
