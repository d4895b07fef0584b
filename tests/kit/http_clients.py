"""Clients of an HTTP server that stops while they use it, and what they lose.

Each client is a raw connection: a library would retry a request, or check whether the connection has ended
before it sends. These clients send blindly, like any client whose request crosses the end of its connection.
"""

import asyncio
import contextlib
import itertools
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.kit import processes, scaled

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#: One client. It sets the event when it has had its first answer.
Client = Callable[[asyncio.Event], Awaitable[None]]
#: One request and its answer. Returns who answered. Raises OSError, EOFError or ValueError.
Ask = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]
#: A client that comes after the stop is refused, or comes before the listener has gone and is reset with it.
LATE = (ConnectionRefusedError, ConnectionResetError)


@dataclass
class Tally:
    """What all clients of one test have seen."""

    answered: int = 0
    #: Answers with `Connection: close` to a client that would have kept its connection.
    closed: int = 0
    #: Who answered how often.
    workers: Counter[bytes] = field(default_factory=Counter)
    #: Requests without an answer, and WebSockets that ended without a close frame: the reasons.
    lost: list[str] = field(default_factory=list)
    #: First requests of connections that may not have been accepted yet when the listener went.
    unserved: list[str] = field(default_factory=list)
    #: Clients that connected after the stop, and were neither served nor refused.
    reset: list[str] = field(default_factory=list)
    #: Close codes of WebSockets.
    codes: Counter[int] = field(default_factory=Counter)


class Crowd:
    """Clients that come and go until `end`. `stopping` tells them of the signal to stop."""

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
        """Add `count` clients of one kind."""
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
        """Wait until each client has had an answer."""
        async with asyncio.timeout(scaled(30)):
            for there in self._there:
                await there.wait()

    async def answered(self, count: int) -> None:
        """Wait until `count` more requests have been answered, or lost."""
        wanted = self.tally.answered + len(self.tally.lost) + count
        async with asyncio.timeout(scaled(30)):
            while self.tally.answered + len(self.tally.lost) < wanted:
                self._news.clear()
                await self._news.wait()

    async def busiest_leaves(self) -> None:
        """Ask the worker with the most answers to leave, and wait for its end. The clients go on."""
        (busiest, _), *_ = self.tally.workers.most_common()
        await leaves(int(busiest))

    async def gone(self) -> None:
        """Wait until every client has noticed that the server is gone, and has left."""
        async with asyncio.timeout(scaled(60)):
            await asyncio.gather(*self._tasks)

    async def end(self) -> None:
        """Let every client leave after its present request."""
        self._over.set()
        await self.gone()

    async def think(self, seconds: float) -> None:
        """Wait for `seconds`, or until `end`: the client's time between two requests is the subject here."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)

    # --- kinds of clients ---------------------------------------------------------------------------------

    def kept_alive(self, longest: float, request: bytes = REQUEST) -> Client:
        """One connection with request after request, thinking up to `longest` seconds in between."""

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
        """Ask until the server says that it closes the connection. Returns False when the test is over."""
        came_late = self.is_stopping
        asked = 0
        while not self._over.is_set():
            try:
                writer.write(request)
                head, body = await read_answer(reader)
            except (OSError, EOFError, ValueError) as error:
                self._lost(asked, error, came_late=came_late)
                return False
            asked += 1
            self._answered(body, there)
            if b"HTTP/1.0" in request:
                await self.think(self.random.uniform(0.0, longest))
                return True
            if b"connection: close" in head.lower():
                self.tally.closed += 1
                return True
            await self.think(self.random.uniform(0.0, longest))
        return False

    def new_each_time(self, pause: float) -> Client:
        """A connection for each request, as in HTTP/1.0, with `pause` seconds between two."""
        return self.kept_alive(pause, b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")

    def newcomers(self, rate: float, ask: Ask) -> Client:
        """Open `rate` new connections a second, each with one request, whatever becomes of the others.

        This ends when one is refused after the stop.
        """

        async def client(there: asyncio.Event) -> None:
            loop = asyncio.get_running_loop()
            begin, refused = loop.time(), asyncio.Event()
            async with asyncio.TaskGroup() as visits:
                for number in itertools.count(1):
                    if self._over.is_set() or refused.is_set():
                        return
                    visits.create_task(self._visit(ask, there, refused))
                    await self.think(begin + number / rate - loop.time())

        return client

    async def _visit(self, ask: Ask, there: asyncio.Event, refused: asyncio.Event) -> None:
        if not await self._talk(1, 0.0, ask, there):
            refused.set()

    def conversation(self, requests: int, longest: float, ask: Ask) -> Client:
        """Connections with `requests` requests, thinking up to `longest` seconds in between."""

        async def client(there: asyncio.Event) -> None:
            while not self._over.is_set() and await self._talk(requests, longest, ask, there):
                pass

        return client

    async def _talk(self, requests: int, longest: float, ask: Ask, there: asyncio.Event) -> bool:
        """One connection. Returns False if it was refused."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except LATE:
            self._came_late()
            return False
        came_late, asked = self.is_stopping, 0
        try:
            while asked < requests:
                self._answered(await ask(reader, writer), there)
                asked += 1
                await self.think(self.random.uniform(0.0, longest))
        except (OSError, EOFError, ValueError) as error:
            self._lost(asked, error, came_late=came_late)
        finally:
            await _close(writer)
        return True

    def websocket(self, *, again: bool = False) -> Client:
        """A WebSocket that listens until it is closed, and notes how. `again`: it then connects again."""

        async def client(there: asyncio.Event) -> None:
            while not self._over.is_set():
                try:
                    await self._listen(there)
                except (OSError, EOFError, InvalidHandshake) as error:
                    self.tally.lost.append(f"a WebSocket that could not be opened: {error!r}")
                    return
                if not again:
                    return

        return client

    async def _listen(self, there: asyncio.Event) -> None:
        async with connect_websocket(f"ws://127.0.0.1:{self.port}/ws", ping_interval=None) as websocket:
            there.set()
            hearing = asyncio.ensure_future(websocket.recv())
            over = asyncio.ensure_future(self._over.wait())
            await asyncio.wait((hearing, over), return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            if not hearing.done():  # the client hangs up
                hearing.cancel()
                return
            try:
                await hearing
            except ConnectionClosed as closed:
                if closed.rcvd is None:
                    self.tally.lost.append("a WebSocket without a close frame")
                else:
                    self.tally.codes[closed.rcvd.code] += 1

    def _answered(self, worker: bytes, there: asyncio.Event) -> None:
        there.set()
        self.tally.answered += 1
        self.tally.workers[worker] += 1
        self._news.set()

    def _lost(self, asked: int, error: Exception, *, came_late: bool) -> None:
        """Note a connection that ended without the answer to its next request; `asked` were answered."""
        where = self.tally.lost if asked else self.tally.reset if came_late else self.tally.unserved
        where.append(f"request {asked + 1} of a connection: {error!r}")

    def _came_late(self) -> None:
        if not self.is_stopping:
            self.tally.lost.append("refused before the stop")


async def leaves(worker: int) -> None:
    """Ask the worker with this pid to leave, and wait until it has ended. The clients go on."""
    os.kill(worker, signal.SIGTERM)
    assert await asyncio.to_thread(processes.wait_gone, [worker]) == []


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read head and body of one answer with a Content-Length. Raises OSError, EOFError."""
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if not head.startswith(b"HTTP/1.1 200") or found is None:
        raise ValueError(head)
    return head, await reader.readexactly(int(found[1]))


async def ask_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Send one HTTP/1.0 request, which ends the connection."""
    writer.write(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
    return (await read_answer(reader))[1]


async def ask_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Send a line, and read a line."""
    writer.write(b"hello\n")
    return (await reader.readuntil(b"\n")).strip()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
