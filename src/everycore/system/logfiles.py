"""Log files, reopened by name: log rotation moves a file away and then asks for this (logrotate(8)).

A log file is a handler of `logging` that writes to a file by its name: a `logging.FileHandler` or a subclass,
of any logger, even behind a `MemoryHandler`. everycore's own log files are `OwnLogFile`s.
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
    """A log file that knows how to reopen itself."""

    #: Whether other processes have the same file and report it if the file cannot be reopened.
    is_told_elsewhere = False

    def reopen(self) -> None:
        """Reopen the file if it was moved away. After an OSError it goes on with the file that it has."""
        raise NotImplementedError


def reopen() -> None:
    """Reopen every log file of this process whose name no longer leads to it.

    A log file that cannot be reopened goes on with the file that it has, and a warning says so. A new file is
    appended to, whatever the handler's mode, since all workers share it.
    """
    for handler in tuple(_file_handlers()):
        try:
            _reopen(handler)
        except (OSError, ValueError, LookupError) as error:  # closed meanwhile; an unknown encoding
            if not (isinstance(handler, OwnLogFile) and handler.is_told_elsewhere and _is_everybodys(error)):
                log.warning(
                    "cannot reopen the log file %r, so the old file stays in use: %s",
                    handler.baseFilename,
                    error,
                )


def _is_everybodys(error: Exception) -> bool:
    """Whether every process meets the same error."""
    return isinstance(error, OSError) and error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _reopen(handler: logging.FileHandler) -> None:
    if isinstance(handler, OwnLogFile):
        handler.reopen()
        return
    if watched := _as(handler, "WatchedFileHandler"):  # it checks by itself, at its next record
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
    """None for a handler that opens at its first record, and for one that opens its file in its own way."""
    return stream if isinstance(getattr(stream, "buffer", None), io.BufferedWriter) else None


def has_moved(fd: int, path: str) -> bool:
    """Whether `path` leads to another file than `fd`. A pipe or a device has no newer file."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(there.st_mode) and not os.path.samestat(there, os.fstat(fd))


def _as(handler: logging.Handler, kind: str) -> Any:
    """`handler` if it is of that class of `logging.handlers`, else None. Does not import that module."""
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
