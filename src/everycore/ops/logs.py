"""How the command line logs: to stderr, one line a record, with who says it.

Set up the loggers of everycore and of the engine, the same way in the primary and in its workers. Invariant:
the root logger stays the application's own. Not by `logging.config.dictConfig`, which closes every handler
that others have made.
"""

from __future__ import annotations

import io
import logging

LEVELS = ("critical", "error", "warning", "info", "debug")


def configure(who: str, level: str, *, access_log: bool = False, stream: io.TextIOBase | None = None) -> None:
    """Log as `who` ("primary", "worker 3") to `stream`, or to `sys.stderr`.

    The access log is an extra, which `level` does not silence.
    """
    # A closed stderr must not make every record print a traceback about itself.
    logging.raiseExceptions = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(f"%(asctime)s [{who}] %(levelname)s %(message)s"))
    ours = getattr(logging, level.upper())
    # What uvicorn says at level info, of each worker's start and end, is debug here.
    engine = logging.WARNING if ours == logging.INFO else ours
    access = logging.INFO if access_log else logging.CRITICAL
    for name, threshold in (("everycore", ours), ("uvicorn", engine), ("uvicorn.access", access)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(threshold)
        logger.propagate = False
