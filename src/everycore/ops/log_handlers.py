"""Where the log of everycore goes: a stream, or a file of its own (`--log-file`, `--access-logfile`).

Each process appends to a file by itself (O_APPEND), a line by one write, so that lines of several processes
do not mix. Invariants: nobody waits for whoever reads, where the file is a FIFO or a terminal (`Outlet`); a
file that cannot be opened anew goes on as it is.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, ClassVar, Final, TextIO

from everycore.ops.outlets import LAST_CHANCE, LoopedOutlet
from everycore.system.logfiles import OwnLogFile, has_moved
from everycore.system.outlet import Outlet, told_of_dropped
from everycore.system.plain_files import APPENDING, open_for

log = logging.getLogger("everycore.ops")

_STDERR: Final = 2


class QuietHandler(logging.StreamHandler[Any]):
    """A closed stderr, or a full disk, does not make each record print a traceback about itself.

    A mistake in a record is told as `logging.raiseExceptions` wants it, which is the application's to set.
    """

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802 - the name that logging calls
        """As `logging.Handler.setFormatter`, for what the stream itself says too."""
        super().setFormatter(fmt)
        self._lend_words(self.stream)

    def _lend_words(self, stream: Any) -> None:
        if isinstance(stream, Outlet):
            stream.line_of_dropped = self._line_of_dropped

    def _line_of_dropped(self, count: int) -> str:
        record = logging.LogRecord(log.name, logging.WARNING, __file__, 0, told_of_dropped(count), None, None)
        return self.format(record) + self.terminator

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that logging calls
        """Say nothing of a stream that cannot be written."""
        has_no_stream = self.stream is None or getattr(self.stream, "closed", False)
        if not has_no_stream and not isinstance(sys.exception(), OSError):
            super().handleError(record)


class LogFile(QuietHandler, OwnLogFile):
    """Appends to the file `path`. Raises OSError if that cannot be opened and there is no `fallback`.

    is_watched: look before each line whether the file was moved away, and open it anew by its name then.
    fallback: where lines go as long as the file cannot be opened. missing: why it could not, at first.
    """

    #: Whom the files belong to that this process makes (uid, gid); None: to itself.
    owner: ClassVar[tuple[int, int] | None] = None

    def __init__(self, path: str, *, is_watched: bool = False, fallback: TextIO | None = None) -> None:
        self._is_watched = is_watched
        self._is_over = False
        self._on_file: Callable[[int], object] = lambda _: None
        self._fallback = fallback
        self.missing: OSError | None = None
        super().__init__(path)
        #: That it cannot be opened anew was told.
        self._is_told = self.missing is not None

    def _open(self) -> Any:
        try:
            return self._open_file()
        except OSError as error:
            if self._fallback is None:
                raise
            self.missing = error
            return self._fallback

    def _open_file(self) -> LoopedOutlet:
        fd = open_for(self.owner, self.baseFilename, APPENDING)
        try:
            outlet = LoopedOutlet(fd)
        finally:
            os.close(fd)
        self._lend_words(outlet)
        self._on_file(outlet.fileno())
        return outlet

    def follow(self, on_file: Callable[[int], object]) -> None:
        """Call `on_file` with the descriptor of the file, now and when it is another; 2, stderr: none."""
        self._on_file = on_file
        if self.stream is not None and self.stream is not self._fallback:
            on_file(self.stream.fileno())

    def emit(self, record: logging.LogRecord) -> None:
        """As `logging.Handler.emit`."""
        try:
            if self.stream is None and not self._is_over:
                self.stream = self._open()
        except OSError:
            return
        if self.stream is not None:
            if self._is_watched:
                self._watch()
            logging.StreamHandler.emit(self, record)

    def _watch(self) -> None:
        try:
            self.reopen()
        except OSError as error:
            if not self._is_told:  # the next line tries again
                self._is_told = True
                log.warning(
                    "cannot reopen the log file %r, so the old file stays in use: %s",
                    self.baseFilename,
                    error,
                )
        else:
            self._is_told = False

    def reopen(self) -> None:
        """As `OwnLogFile.reopen`."""
        self.acquire()
        try:
            before: Any = self.stream
            if before is not None and has_moved(before.fileno(), self.baseFilename):
                self.stream = self._open_file()  # type: ignore[assignment] # a text stream too
                self._end(before, 0)
        finally:
            self.release()

    def end(self) -> None:
        """Close it for good."""
        self._is_over = True
        self.close()

    def close(self) -> None:
        """As `logging.FileHandler.close`: the next line opens it again.

        `logging.config` closes all handlers that there are, when an application configures its own.
        """
        self.acquire()
        try:
            before: Any = self.stream
            self.stream = None
            self._on_file(_STDERR)
            if before is not None:
                self._end(before, LAST_CHANCE)
        finally:
            self.release()
        logging.Handler.close(self)

    def _end(self, stream: Any, patience: float) -> None:
        if stream is not self._fallback:
            stream.finish(patience)
