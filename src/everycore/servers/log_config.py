"""`--log-config`, as uvicorn reads it: before the application is imported, so that its loggers are kept.

This module hands the file to uvicorn's own `Config`, after resetting uvicorn's loggers to the state that
uvicorn alone would find. Invariant: an access log with a file or a format of its own (`--access-logfile`)
keeps that, and everycore's own loggers go on, even if the file silences every logger that it does not name.
"""

from __future__ import annotations

import logging

from everycore.ops.access_log import REQUESTS
from everycore.ops.job import Job
from everycore.servers.loading import CannotBootError, words


def read_log_config(job: Job) -> None:
    """Configure logging by the file of `job`, if it has one. Raises CannotBootError."""
    path = job.log_config
    if path is None:
        return
    try:
        import uvicorn  # imported here because it is an extra
    except ImportError:
        raise CannotBootError("--log-config needs uvicorn: pip install 'everycore[standard]'") from None
    requests = logging.getLogger(REQUESTS)
    ours = [logger for name, logger in _loggers() if name.partition(".")[0] == "everycore"]
    has_own = job.access_logfile is not None or job.access_logformat is not None
    own = list(requests.handlers) if has_own else []
    # A file may rely on the handlers of the root logger for these.
    for name in ("uvicorn", "uvicorn.error", REQUESTS, "hypercorn"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    try:
        uvicorn.Config("", log_config=path)
    except Exception as error:  # the user's file: report uvicorn's words, no traceback
        raise CannotBootError(f"uvicorn refuses --log-config {path}: {_words(error)}") from None
    for logger in ours:
        logger.disabled = False
    if own:
        requests.handlers[:] = own
        requests.propagate = requests.disabled = False
        requests.setLevel(logging.INFO)


def _loggers() -> list[tuple[str, logging.Logger]]:
    known = list(logging.Logger.manager.loggerDict.items())
    return [(name, logger) for name, logger in known if isinstance(logger, logging.Logger)]


def _words(error: Exception) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(error, ValueError) and cause is not None:  # logging.config puts the details into the cause
        return f"{words(error)}: {cause}"
    return words(error)
