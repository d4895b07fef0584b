"""Standard output and error of a service, written without waiting for a reader.

An event loop writes what an `Outlet` had to keep. In a primary, where no user code runs, outlets replace
`sys.stdout` and `sys.stderr`, so that nothing printed there, not even a traceback, makes the process wait.
Streams that are not the process's own (a test's, another program's) are left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Final, TextIO, cast

from everycore.system.outlet import ROOM, Outlet

#: How long a reader has for the last lines when the process ends, in seconds. A worker has little more time.
LAST_CHANCE: Final = 0.5


class LoopedOutlet(Outlet):
    """An outlet that is emptied by the loop which was running when the first line had to be kept."""

    def __init__(self, fd: int, *, room: int = ROOM, encoding: str = "utf-8") -> None:
        super().__init__(fd, room=room, encoding=encoding)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_watched = False

    def _on_waiting(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # another thread, or no loop runs: the next line tries again
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._watch, self._loop)
        else:
            self._watch(loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            self._loop, self._is_watched = loop, False
        if not self._is_watched and not self.closed and self.waits:
            with contextlib.suppress(OSError):  # epoll(7) refuses regular files, which are always writable
                loop.add_writer(self.fileno(), self._on_room, loop)
                self._is_watched = True

    def _on_room(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            is_empty = self.push()
        except OSError:  # the reader is gone for good
            is_empty = True
        if is_empty:
            loop.remove_writer(self.fileno())
            self._is_watched = False

    def close(self) -> None:
        """As `Outlet.close`."""
        if self._is_watched and self._loop is not None and not self._loop.is_closed():
            self._loop.remove_writer(self.fileno())
        self._is_watched = False
        super().close()

    def _forked(self) -> None:
        super()._forked()
        self._loop, self._is_watched = None, False


@contextlib.contextmanager
def outlet_of(stream: TextIO | None) -> Iterator[LoopedOutlet | None]:
    """An outlet for the file of `stream`; None if it is not a file, or if no descriptor is left."""
    outlet = _open(stream)
    try:
        yield outlet
    finally:
        if outlet is not None:
            outlet.finish(LAST_CHANCE)


def _open(stream: TextIO | None) -> LoopedOutlet | None:
    try:
        if stream is None or not any(stream is own for own in (sys.__stdout__, sys.__stderr__)):
            return None
        stream.flush()
        return LoopedOutlet(stream.fileno(), encoding=stream.encoding)
    except (OSError, ValueError, io.UnsupportedOperation):
        return None


@contextlib.contextmanager
def never_waiting() -> Iterator[None]:
    """Within this block, writing to `sys.stdout` and `sys.stderr` never waits."""
    before = sys.stdout, sys.stderr
    with outlet_of(before[0]) as out, outlet_of(before[1]) as err:
        sys.stdout = before[0] if out is None else cast("TextIO", out)
        sys.stderr = before[1] if err is None else cast("TextIO", err)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
