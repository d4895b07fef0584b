"""How the command line logs: to stderr or to a file, one line a record, with the name of the process.

This module sets up the loggers of everycore and of the engine, in the same way in the primary and in its
workers. Invariant: the root logger stays the application's. `logging.config.dictConfig` would not do: it
closes every handler that exists.
"""

from __future__ import annotations

import errno
import io
import logging
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec

from everycore.ops.access_log import REQUESTS
from everycore.ops.log_formats import TEXT, Speaker, formatter
from everycore.ops.log_handlers import LogFile, QuietHandler
from everycore.system.plain_files import reason_of

log = logging.getLogger("everycore.ops")

#: The level below debug, as in uvicorn: every message of ASGI.
TRACE: Final = 5
#: Stands for stderr in place of a path.
STDERR: Final = "-"
#: The loggers that are set up.
LOGGERS: Final = ("everycore", "uvicorn", "hypercorn", REQUESTS)


class AccessLog(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are logged: `--access-log`, `--access-logfile`, `--access-logformat`."""

    is_on: bool = False
    file: str | None = None
    format: str | None = None


NO_ACCESS_LOG: Final = AccessLog()


def configure(
    speaker: Speaker,
    level: str,
    *,
    format: str = TEXT,
    file: str | None = None,
    access_log: AccessLog = NO_ACCESS_LOG,
    stream: io.TextIOBase | None = None,
    is_lenient: bool = False,
) -> None:
    """Log as `speaker` to `file`; if that is None or `-`, to `stream`, or else to `sys.stderr`.

    `level` does not silence requests, which `access_log` controls. A second call replaces the first. Raises
    OSError, and changes nothing, if a file cannot be opened. With `is_lenient` that is a warning instead, and
    the file's lines go to stderr.
    """
    fallback = (stream or sys.stderr) if is_lenient else None
    usual = own = _handler(file, stream, fallback)
    try:
        if access_log.is_on and access_log.file is not None:
            own = _handler(access_log.file, stream, fallback, is_watched=True)
    except OSError:
        usual.close()
        raise
    for handler in (usual, own):
        handler.setFormatter(formatter(format, speaker, access_log.format))
    if isinstance(usual, LogFile):
        usual.is_told_elsewhere = speaker.kind == "worker"  # the primary reports errors of that file
    _install(usual, own)
    set_level(level)
    logging.getLogger(REQUESTS).setLevel(logging.INFO if access_log.is_on else logging.CRITICAL)
    for handler in dict.fromkeys((usual, own)):
        if isinstance(handler, LogFile) and handler.missing is not None:
            why = reason(handler.missing)
            log.warning("cannot write %r: %s; its lines go to stderr", handler.baseFilename, why)


def reason(error: OSError) -> str:
    """Why a log file cannot be opened, as the end of a sentence."""
    if error.errno == errno.ENXIO:
        return "it is a FIFO without a reader, or a socket"
    return reason_of(error)


def _handler(file: str | None, stream: Any, fallback: Any, *, is_watched: bool = False) -> logging.Handler:
    if file is None or file == STDERR:
        return QuietHandler(stream)
    return LogFile(file, is_watched=is_watched, fallback=fallback)


def _install(usual: logging.Handler, of_requests: logging.Handler) -> None:
    before = {handler for name in LOGGERS for handler in logging.getLogger(name).handlers}
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [of_requests if name == REQUESTS else usual]
        logger.propagate = False
    for handler in before:
        if isinstance(handler, LogFile):
            handler.end()


def follow_file(on_file: Callable[[int], object]) -> None:
    """As `LogFile.follow`, for the file that everycore logs to. Does nothing if there is none."""
    ours, *_ = LOGGERS
    for handler in logging.getLogger(ours).handlers:
        if isinstance(handler, LogFile):
            handler.follow(on_file)


def close_files() -> None:
    """Close the log files, and log to none of them any more."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for handler in tuple(logger.handlers):
            if isinstance(handler, LogFile):
                logger.removeHandler(handler)
                handler.end()


def set_level(level: str) -> None:
    """Set how much everycore and the engine log. `level` is one of `config.common.LEVELS`."""
    ours = TRACE if level == "trace" else getattr(logging, level.upper())
    # An engine logs each worker's start and end at level info. Here, that is debug.
    engine = logging.WARNING if ours == logging.INFO else ours
    # uvicorn's protocols ask their logger for its own level, not for the inherited one. If it has none, they
    # format two lines per connection for the level TRACE, which logging then drops: 4 us (measured).
    for name, threshold in (
        ("everycore", ours), ("uvicorn", engine), ("uvicorn.error", engine), ("hypercorn", engine)
    ):  # fmt: skip
        logging.getLogger(name).setLevel(threshold)
