"""Log files, opened anew by their name: whoever rotates logs moves a file away, and says so (logrotate(8)).

A log file is a handler of `logging` that writes to a file by its name: `logging.FileHandler` and its kinds,
of any logger, also behind a `MemoryHandler`. Those of everycore itself are of the kind `OwnLogFile`.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any

log = logging.getLogger("everycore.system")


class OwnLogFile(logging.FileHandler):
    """A log file that knows by itself how it is opened anew."""

    #: Another process, which has the same file, tells that it cannot be opened anew.
    is_told_elsewhere = False

    def reopen(self) -> None:
        """Open it anew, if it was moved away. Raises OSError; it goes on as it is then."""
        raise NotImplementedError


def reopen() -> None:
    """Open anew every log file of this process that is not what its name leads to any more.

    One that cannot be opened goes on with the file that it has, and a warning says so. A new file
    is added to, whatever the mode of the handler: it is that of all workers.
    """
    for handler in tuple(_file_handlers()):
        try:
            _reopen(handler)
        except (OSError, ValueError, LookupError) as error:  # closed by somebody; an unknown encoding
            if not (isinstance(handler, OwnLogFile) and handler.is_told_elsewhere and _is_everybodys(error)):
                log.warning("the log file %r goes on as it is: %s", handler.baseFilename, error)


def _is_everybodys(error: Exception) -> bool:
    """Whether every process finds the same."""
    return isinstance(error, OSError) and error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _reopen(handler: logging.FileHandler) -> None:
    if isinstance(handler, OwnLogFile):
        handler.reopen()
        return
    if watched := _as(handler, "WatchedFileHandler"):  # which looks by itself, at its next record
        watched.acquire()
        try:
            watched.reopenIfNeeded()
        finally:
            watched.release()
        return
    before = _plain(handler.stream)
    if before is None or not has_moved(before.fileno(), handler.baseFilename):
        return
    mode: Any = handler.mode.replace("w", "a").replace("x", "a")
    stream: Any = open(handler.baseFilename, mode, encoding=handler.encoding, errors=handler.errors)  # noqa: SIM115
    try:
        handler.setStream(stream)
    except BaseException:
        stream.close()
        raise
    before.close()


def _plain(stream: io.TextIOWrapper | None) -> io.TextIOWrapper | None:
    """None for one that its first record is to open, and for what a handler opens in a way of its own."""
    return stream if isinstance(getattr(stream, "buffer", None), io.BufferedWriter) else None


def has_moved(fd: int, path: str) -> bool:
    """Whether `path` leads to another file than `fd`. A pipe or a device has none that is newer."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(there.st_mode) and not os.path.samestat(there, os.fstat(fd))


def _as(handler: logging.Handler, kind: str) -> Any:
    """`handler`, if it is of that kind of `logging.handlers`. Only who has such a one imports that module."""
    module: Any = sys.modules.get("logging.handlers")
    return handler if module is not None and isinstance(handler, getattr(module, kind)) else None


def _file_handlers() -> Iterator[logging.FileHandler]:
    root = logging.getLogger()
    loggers = [
        root,
        *(it for it in tuple(root.manager.loggerDict.values()) if isinstance(it, logging.Logger)),
    ]
    todo = [handler for logger in loggers for handler in logger.handlers]
    seen: set[int] = set()
    while todo:
        handler = todo.pop(0)
        if id(handler) in seen:
            continue
        seen.add(id(handler))
        if (memory := _as(handler, "MemoryHandler")) and memory.target is not None:
            todo.append(memory.target)
        if isinstance(handler, logging.FileHandler):
            yield handler
