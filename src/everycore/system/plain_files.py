"""Files that are read to their end, or tried: opening one never waits for somebody else.

Open a file that a user has named, or say why one cannot be written. Invariant: what is no file (a folder, a
FIFO without a writer, a socket, a disk) is an OSError, at once. A device of characters is taken: `/dev/null`
is an empty file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import BinaryIO, Final

#: To append to a file, and to make it. O_NONBLOCK: a FIFO that nobody reads is an error (ENXIO), and not
#: waited for.
APPENDING: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def open_plain(path: str) -> BinaryIO:
    """The file at `path`, opened to be read. Raises OSError."""
    try:
        # O_NONBLOCK: a FIFO would wait for a writer. It changes nothing about a file.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:  # there is a NUL in it
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
    """As open(2). A file that this makes belongs to `owner` (uid, gid), if that is given. Raises OSError."""
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
    """Why a file cannot be read or written, for the end of a sentence."""
    return (error.strerror or str(error)).lower()


def why_not_written(path: str) -> str | None:
    """Why this process cannot write the file, or into the folder, at `path`; None: it can. Raises OSError."""
    needed = os.W_OK | os.X_OK if os.path.isdir(path) else os.W_OK
    if os.access(path, needed):
        return None
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "it is on a read-only file system"
    return f"uid {os.geteuid()} has no permission"
