"""Opening files without ever waiting for another process.

These functions open a file that a user has named, or say why it cannot be written. Invariant: what is not a
file (a folder, a FIFO without a writer, a socket, a disk) raises OSError at once. A character device is
accepted: `/dev/null` is an empty file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import BinaryIO, Final

#: Flags to append to a file, and to create it. O_NONBLOCK: opening a FIFO without a reader fails (ENXIO)
#: instead of waiting.
APPENDING: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def open_plain(path: str) -> BinaryIO:
    """Open the file at `path` for reading. Raises OSError."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer. For a file the flag changes nothing.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:  # the path contains a NUL
        raise OSError(errno.EINVAL, "no file has such a name", path) from None
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def open_for(owner: tuple[int, int] | None, path: str, flags: int) -> int:
    """As open(2). A file that this creates gets `owner` (uid, gid), if one is given. Raises OSError."""
    if owner is not None:
        with contextlib.suppress(FileExistsError):
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                os.fchown(fd, *owner)
            except BaseException:
                os.close(fd)
                raise
            return fd
    return os.open(path, flags, 0o666)


def reason_of(error: OSError) -> str:
    """Why a file cannot be read or written, as the end of a sentence."""
    return (error.strerror or str(error)).lower()


def why_not_written(path: str) -> str | None:
    """Why this process cannot write to the file or folder at `path`; None if it can. Raises OSError."""
    needed = os.W_OK | os.X_OK if os.path.isdir(path) else os.W_OK
    if os.access(path, needed):
        return None
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "it is on a read-only file system"
    return f"uid {os.geteuid()} has no permission"
