"""The observer's end of the line on which it asks the primary.

Invariant: replies come in the order of the requests; whoever has given up waiting for one costs nothing but
its place. When the primary closes the line, `ended` is set.
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

#: Seconds that the primary has to answer.
TIMEOUT: Final = 2.0
#: Questions that wait for an answer at most: more are not asked.
_MOST_WAITING: Final = 16
_MOST_LINE: Final = 16 * 1024 * 1024


class PrimaryLine:
    """Asks the primary."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: deque[asyncio.Future[msgspec.Raw]] = deque()
        #: The primary is gone, or has closed the line.
        self.ended = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def ask(self, request: control.Request, kind: type[T]) -> T:
        """Its answer. Raises ControlError: `no_answer` where there is none in time."""
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
        """Ask nothing any more."""
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
        except (OSError, ValueError, ControlError):  # what comes there is no answer
            pass
        finally:
            self.ended.set()
            for future in self._waiting:
                if not future.done():
                    future.set_exception(ControlError("no_answer", "the primary has closed the line"))
                    future.exception()  # who has given up waiting does not hear of it


def _settle(future: asyncio.Future[msgspec.Raw], answer: control.ControlAnswer) -> None:
    if future.done():
        return
    if answer.error is not None:
        future.set_exception(ControlError(answer.error.kind, answer.error.text))
    else:
        future.set_result(answer.result)


async def open_line(fd: int) -> PrimaryLine:
    """The line on that inherited descriptor."""
    sock = socket.socket(fileno=fd)
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_MOST_LINE)
    return PrimaryLine(reader, writer)
