"""The observer's end of the connection on which it asks the primary.

Invariant: replies come in the order of the requests. A request whose caller has stopped waiting only keeps
its place in that order. When the primary closes the connection, `ended` is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import Final, TypeVar

import msgspec

from everycore.core import control
from everycore.errors import ControlError

T = TypeVar("T")

#: How long the primary has to answer, in seconds.
TIMEOUT: Final = 2.0
#: Most questions that wait for an answer. Further ones fail at once.
_MOST_WAITING: Final = 16
_MOST_LINE: Final = 16 * 1024 * 1024


class PrimaryLine:
    """Asks the primary, and matches its answers to the questions."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: deque[asyncio.Future[msgspec.Raw]] = deque()
        #: Set once the primary is gone, or has closed the connection.
        self.ended = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def ask(self, request: control.Request, kind: type[T]) -> T:
        """Return the primary's answer. Raises ControlError: `no_answer` if there is none in time."""
        if self.ended.is_set() or len(self._waiting) >= _MOST_WAITING:
            raise ControlError("no_answer", "the primary does not answer")
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._writer.write(control.request_line(request))
        try:
            async with asyncio.timeout(TIMEOUT):
                raw = await future
        except TimeoutError:
            raise ControlError("no_answer", f"the primary does not answer within {TIMEOUT:g} s") from None
        return msgspec.json.decode(raw, type=kind)

    async def close(self) -> None:
        """Close the connection."""
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                answer = control.read_answer(line)
                if answer.event is None and self._waiting:
                    _settle(self._waiting.popleft(), answer)
        except (OSError, ValueError, ControlError):  # not an answer: the connection is of no more use
            pass
        finally:
            self.ended.set()
            for future in self._waiting:
                if not future.done():
                    future.set_exception(ControlError("no_answer", "the primary has closed the line"))
                    future.exception()  # so that asyncio does not report it if nothing waits any more


def _settle(future: asyncio.Future[msgspec.Raw], answer: control.ControlAnswer) -> None:
    if future.done():
        return
    if answer.error is not None:
        future.set_exception(ControlError(answer.error.kind, answer.error.text))
    else:
        future.set_result(answer.result)


async def open_line(fd: int) -> PrimaryLine:
    """Make the `PrimaryLine` of an inherited descriptor."""
    sock = socket.socket(fileno=fd)
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_MOST_LINE)
    return PrimaryLine(reader, writer)
