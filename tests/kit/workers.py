"""Real workers for a test that is itself the primary: their program, and what they say.

script = worker_script(tmp_path, source)              # a program for workers, with HEAD before it
async with Cluster(Settings(exec=script)) as cluster:
    diary = Diary(cluster)
    worker = cluster.fork()
    await diary.until(Online, worker)
"""

import asyncio
import logging
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from everycore import Cluster, Event, Online, Pool, Worker
from tests.kit import scaled

E = TypeVar("E", bound=Event)

#: What every script begins with. `say` is one write, so that lines of several processes do not mix.
HEAD = """\
import asyncio, contextlib, functools, json, os, signal, socket, struct, sys, threading
import everycore

if kind := os.environ.get("EVERYCORE_TEST_LOOP"):  # what the fixture `loop_kind` chooses
    everycore.run = functools.partial(everycore.run, loop=kind)


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())


async def for_ever():
    await asyncio.Event().wait()

"""

#: A worker that runs everycore's loop and waits to be told to leave.
IDLE = """
async def main():
    await for_ever()

everycore.run(main())
"""

#: A worker that listens on 127.0.0.1, on port `PORT` of its environment (default: any), and echoes lines.
ECHO = """
async def echo(reader, writer):
    async for line in reader:
        writer.write(line)
        await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", int(os.environ.get("PORT", "0")))
    await server.serve_forever()

everycore.run(main())
"""


#: A thread that accepts as an ordinary program does: `serve_plainly(port)` returns the port.
PLAIN = """
def serve_plainly(port=0, timeout=None):
    global listener
    listener = everycore.listen(("127.0.0.1", port))
    listener.settimeout(timeout)
    threading.Thread(target=accept_for_ever, args=(listener,), daemon=True).start()
    return listener.getsockname()[1]

def accept_for_ever(listener):
    while True:
        try:
            conn, _ = listener.accept()
        except TimeoutError:
            continue
        except OSError:
            return
        threading.Thread(target=talk, args=(conn,), daemon=True).start()

def talk(conn):
    with conn:
        conn.sendall(b"%d\\n" % ID)
        while data := conn.recv(100):
            conn.sendall(data)
"""


def program(source: str) -> str:
    """`source` behind HEAD."""
    return HEAD + textwrap.dedent(source)


def worker_script(folder: Path, source: str, name: str = "worker.py") -> Path:
    path = folder / name
    path.write_text(program(source), encoding="utf-8")
    return path


async def within(awaitable: Any, seconds: float = 10.0) -> Any:
    """Wait with a limit of its own, far below the test's, so that a failure shows its line."""
    async with asyncio.timeout(scaled(seconds)):
        return await awaitable


def events_of(cluster: Cluster | Pool, kind: type[E]) -> list[E]:
    """A list of the events of that kind from now on."""
    events: list[E] = []
    cluster.on(kind, events.append)
    return events


class Diary:
    """Every life-cycle event of a cluster since it was made, and a way to wait for one."""

    def __init__(self, cluster: Cluster) -> None:
        self.events: list[Any] = []
        self._changed = asyncio.Event()
        cluster.on(Event, self._note)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def names(self, worker: Worker | None) -> list[str]:
        """The kinds of the events about `worker` (None: about no worker), in order."""
        return [type(event).__name__ for event in self.events if event.worker is worker]

    def all(self, kind: type[E], worker: Worker | None = None) -> list[E]:
        return [
            event
            for event in self.events
            if isinstance(event, kind) and worker in (None, event.worker)  # type: ignore[attr-defined]
        ]

    async def until(self, kind: type[E], worker: Worker | None = None, count: int = 1) -> E:
        """Wait for the `count`-th event of `kind` (about `worker`)."""

        async def wait() -> E:
            while len(found := self.all(kind, worker)) < count:
                self._changed.clear()
                await self._changed.wait()
            return found[count - 1]

        result: E = await within(wait())
        return result


class LogLines(logging.Handler):
    """Records of the logger `everycore`, for tests that wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._changed.set()

    def __enter__(self) -> Self:
        logging.getLogger("everycore").addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        logging.getLogger("everycore").removeHandler(self)

    async def until(self, part: str, count: int = 1) -> None:
        """Wait until `count` lines with `part` in them were logged."""

        async def wait() -> None:
            while sum(part in line for line in self.lines) < count:
                self._changed.clear()
                await self._changed.wait()

        await within(wait())


async def eventually(changed: Callable[[], Any], wait: Callable[[], Any]) -> None:
    """Wait until `changed()` is true. `wait()` returns an awaitable for the time of the next check."""

    async def look() -> None:
        while not changed():
            await wait()

    await within(look())


async def start(cluster: Cluster, diary: Diary, *, until: type[Event] = Online) -> Worker:
    """Fork a worker, and wait for its event of the kind `until`."""
    worker = cluster.fork()
    await diary.until(until, worker)
    return worker


async def heard(worker: Worker) -> Any:
    """The next message of the worker."""
    return (await within(anext(worker.messages()))).message


class EchoClient:
    """One connection to a server that echoes lines, as ECHO does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, address: tuple[str, int]) -> Self:
        client = cls(*await asyncio.open_connection(*address))
        await client.talk()
        return client

    async def talk(self) -> None:
        self.writer.write(b"echo\n")
        assert await within(self.reader.readline()) == b"echo\n"

    async def ended(self) -> bool:
        """Wait until the other side has ended it."""
        try:
            return await within(self.reader.read()) == b""
        except ConnectionResetError:
            return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass
