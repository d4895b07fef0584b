"""The access log of a worker that has a file or a format of its own (`--access-logfile`, `-logformat`).

A handler for the logger on which uvicorn tells of each request. Invariant: a line is one write to a file
that is opened to append, so that lines of several workers do not mix; a file that was moved away or removed
is opened again with the next line (logrotate needs neither a signal nor copytruncate).
"""

from __future__ import annotations

import logging
import os
import time
from logging.handlers import WatchedFileHandler
from typing import Final

from everycore.config.access_format import atoms
from everycore.ops.logs import QuietHandler

#: As gunicorn writes the time of a request.
_TIME: Final = "[%d/%b/%Y:%H:%M:%S %z]"


class AccessFormatter(logging.Formatter):
    """Formats what uvicorn says of a request, by gunicorn's atoms."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def format(self, record: logging.LogRecord) -> str:
        """One line. A record of another kind is formatted as it is."""
        if not isinstance(record.args, tuple) or len(record.args) != 5:
            return record.getMessage()
        client, method, target, version, status = record.args
        values = atoms(str(client), str(method), str(target), str(version), int(str(status)))
        values["t"] = time.strftime(_TIME, time.localtime(record.created))
        values["p"] = f"<{os.getpid()}>"
        return self._text % values


class _QuietFile(QuietHandler, WatchedFileHandler):
    """A file of requests, with the manners of our handlers."""


def access_handler(path: str | None, text: str | None, usual: logging.Handler) -> logging.Handler:
    """Where requests are logged. `usual`: where everything else is. Raises OSError."""
    if path in (None, "-") and text is None:
        return usual
    handler: logging.Handler
    if path is None or path == "-":
        assert isinstance(usual, logging.StreamHandler)
        handler = QuietHandler(usual.stream)
    else:
        handler = _QuietFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(usual.formatter if text is None else AccessFormatter(text))
    return handler
