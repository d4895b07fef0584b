"""How the command line logs: to stderr, one line a record, with who says it.

Set up the loggers of everycore and of the engine, the same way in the primary and in its workers. Invariant:
the root logger stays the application's own. Not by `logging.config.dictConfig`, which closes every handler
that others have made.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from typing import Any, Final

#: Below debug, as uvicorn has it: every message of ASGI.
TRACE: Final = 5
#: On which uvicorn tells of each request.
_REQUESTS: Final = "uvicorn.access"


class QuietHandler(logging.StreamHandler[Any]):
    """A closed stderr, or a full disk, does not make each record print a traceback about itself.

    A mistake in a record is told as `logging.raiseExceptions` wants it, which is the application's to set.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that logging calls
        """Say nothing of a stream that cannot be written."""
        has_no_stream = self.stream is None or getattr(self.stream, "closed", False)
        if not has_no_stream and not isinstance(sys.exception(), OSError):
            super().handleError(record)


def configure(
    who: str,
    level: str,
    *,
    access_log: bool = False,
    access: Callable[[logging.Handler], logging.Handler] = lambda usual: usual,
    stream: io.TextIOBase | None = None,
) -> None:
    """Log as `who` ("primary", "worker 3") to `stream`, or to `sys.stderr`.

    The access log is an extra, which `level` does not silence; `access` makes its handler of the usual one.
    """
    handler = QuietHandler(stream)
    handler.setFormatter(logging.Formatter(f"%(asctime)s [{who}] %(levelname)s %(message)s"))
    set_level(level)
    logging.getLogger(_REQUESTS).setLevel(logging.INFO if access_log else logging.CRITICAL)
    for name in ("everycore", "uvicorn", _REQUESTS):
        logger = logging.getLogger(name)
        logger.handlers[:] = [access(handler) if access_log and name == _REQUESTS else handler]
        logger.propagate = False


def set_level(level: str) -> None:
    """How much everycore and the engine say from now on. `level` is one of `config.tree.LEVELS`."""
    ours = TRACE if level == "trace" else getattr(logging, level.upper())
    # What uvicorn says at level info, of each worker's start and end, is debug here.
    engine = logging.WARNING if ours == logging.INFO else ours
    for name, threshold in (("everycore", ours), ("uvicorn", engine)):
        logging.getLogger(name).setLevel(threshold)
