"""Where everycore's log goes: a stream, or a file of its own (`--log-file`, `--access-logfile`).

Each process appends to a file by itself (O_APPEND) and writes a line in one call, so that lines of several
processes do not mix. Invariants: if the file is a FIFO or a terminal, no process waits for its reader
(`Outlet`); if a file cannot be reopened, the log stays with the open one.
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
    """A stream handler for which a closed stderr, or a full disk, is not an error to report for each record.

    A faulty record is reported if `logging.raiseExceptions` is set, which is the application's decision.
    """

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802 - the name that logging calls
        """As `logging.Handler.setFormatter`. The stream's own messages get the same format."""
        super().setFormatter(fmt)
        self._lend_words(self.stream)

    def _lend_words(self, stream: Any) -> None:
        if isinstance(stream, Outlet):
            stream.line_of_dropped = self._line_of_dropped

    def _line_of_dropped(self, count: int) -> str:
        record = logging.LogRecord(log.name, logging.WARNING, __file__, 0, told_of_dropped(count), None, None)
        return self.format(record) + self.terminator

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that logging calls
        """Report nothing if the stream cannot be written."""
        has_no_stream = self.stream is None or getattr(self.stream, "closed", False)
        if not has_no_stream and not isinstance(sys.exception(), OSError):
            super().handleError(record)


class LogFile(QuietHandler, OwnLogFile):
    """Appends to the file `path`. Raises OSError if the file cannot be opened and there is no `fallback`.

    is_watched: check before each line whether the file was moved away, and if so, open its name again.
    fallback: the stream for lines while the file cannot be opened. missing: the first error in opening it.
    """

    #: The uid and gid of the files that this process makes; None for its own.
    owner: ClassVar[tuple[int, int] | None] = None

    def __init__(self, path: str, *, is_watched: bool = False, fallback: TextIO | None = None) -> None:
        self._is_watched = is_watched
        self._is_over = False
        self._on_file: Callable[[int], object] = lambda _: None
        self._fallback = fallback
        self.missing: OSError | None = None
        super().__init__(path)
        #: Whether the log has already said that the file cannot be reopened.
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
        """Call `on_file` with the file's descriptor, now and at each change; with 2 if there is no file."""
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
        """Close the file for good."""
        self._is_over = True
        self.close()

    def close(self) -> None:
        """As `logging.FileHandler.close`: the next line opens the file again.

        `logging.config` closes all existing handlers when an application configures its own.
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
