"""Clients of an HTTP server that is stopped under them, and what they lose.

Each is a raw connection: a library would try a request again, or look whether the connection has ended before
it sends. These send blindly, which is what a client does whose request crosses the end of its connection.
"""

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

from tests.kit import scaled

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#: One client: it sets the event when it has had its first answer.
Client = Callable[[asyncio.Event], Awaitable[None]]
#: Who comes after the stop is refused, or comes before the listener has gone and is reset with it.
LATE = (ConnectionRefusedError, ConnectionResetError)


@dataclass
class Tally:
    """What all clients of one test have seen."""

    answered: int = 0
    #: Answers that said `Connection: close` to one who would have kept it.
    closed: int = 0
    #: Who answered how often.
    workers: Counter[bytes] = field(default_factory=Counter)
    #: Requests without an answer, and WebSockets that ended without a close frame: why.
    lost: list[str] = field(default_factory=list)
    #: First requests of a connection, which may not have been accepted yet when the listener went.
    unserved: list[str] = field(default_factory=list)
    #: Close codes of WebSockets.
    codes: Counter[int] = field(default_factory=Counter)


class Crowd:
    """Clients that come and go until `end`; the signal to stop is told by `stopping`."""

    def __init__(self, port: int, seed: int = 1) -> None:
        self.port = port
        self.tally = Tally()
        self.random = random.Random(seed)
        self.is_stopping = False
        self._over = asyncio.Event()
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._there: list[asyncio.Event] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    def add(self, kind: Client, count: int) -> None:
        """So many more of one kind."""
        for _ in range(count):
            there = asyncio.Event()
            self._there.append(there)
            self._tasks.append(asyncio.ensure_future(self._be(kind, there)))

    async def _be(self, kind: Client, there: asyncio.Event) -> None:
        try:
            await kind(there)
        finally:
            there.set()

    async def all_there(self) -> None:
        """Every one has had an answer."""
        async with asyncio.timeout(scaled(30)):
            for there in self._there:
                await there.wait()

    async def answered(self, count: int) -> None:
        """So many more requests have been answered, or lost."""
        wanted = self.tally.answered + len(self.tally.lost) + count
        async with asyncio.timeout(scaled(30)):
            while self.tally.answered + len(self.tally.lost) < wanted:
                self._news.clear()
                await self._news.wait()

    async def gone(self) -> None:
        """Everybody has noticed that the server is gone, and left."""
        async with asyncio.timeout(scaled(60)):
            await asyncio.gather(*self._tasks)

    async def end(self) -> None:
        """Let all go home after the request at hand."""
        self._over.set()
        await self.gone()

    async def think(self, seconds: float) -> None:
        """Wait for so long, or until `end`: the client's time between two requests is the subject here."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)

    # --- kinds of clients ---------------------------------------------------------------------------------

    def kept_alive(self, longest: float, request: bytes = REQUEST) -> Client:
        """One connection, request after request, thinking up to `longest` seconds in between."""

        async def client(there: asyncio.Event) -> None:
            while not self._over.is_set():
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except LATE:
                    self._came_late()
                    return
                try:
                    if not await self._converse(reader, writer, longest, request, there):
                        return
                finally:
                    await _close(writer)

        return client

    async def _converse(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        longest: float,
        request: bytes,
        there: asyncio.Event,
    ) -> bool:
        """Ask until the server says that it closes the connection. False: it is over."""
        came_late = self.is_stopping
        asked = 0
        while not self._over.is_set():
            try:
                writer.write(request)
                head, body = await read_answer(reader)
            except (OSError, EOFError, ValueError) as error:
                if came_late and not asked:
                    return False  # who connects after the stop may be refused
                lost = self.tally.lost if asked else self.tally.unserved
                lost.append(f"request {asked + 1} of a connection: {error!r}")
                return False
            asked += 1
            there.set()
            self.tally.answered += 1
            self.tally.workers[body] += 1
            self._news.set()
            if b"HTTP/1.0" in request:
                await self.think(self.random.uniform(0.0, longest))
                return True
            if b"connection: close" in head.lower():
                self.tally.closed += 1
                return True
            await self.think(self.random.uniform(0.0, longest))
        return False

    def new_each_time(self, pause: float) -> Client:
        """A connection for each request, as HTTP/1.0 has it; `pause` seconds between two."""
        return self.kept_alive(pause, b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")

    def websocket(self) -> Client:
        """A WebSocket that listens until it is closed, by whom and how is noted."""

        async def client(there: asyncio.Event) -> None:
            async with connect_websocket(f"ws://127.0.0.1:{self.port}/ws", ping_interval=None) as websocket:
                there.set()
                try:
                    while True:
                        await websocket.recv()
                except ConnectionClosed as closed:
                    if closed.rcvd is None:
                        self.tally.lost.append("a WebSocket without a close frame")
                    else:
                        self.tally.codes[closed.rcvd.code] += 1

        return client

    def _came_late(self) -> None:
        if not self.is_stopping:
            self.tally.lost.append("refused before the stop")


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one answer with a Content-Length. Raises OSError, EOFError."""
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if not head.startswith(b"HTTP/1.1 200") or found is None:
        raise ValueError(head)
    return head, await reader.readexactly(int(found[1]))


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
