"""Workers that do what a test tells them, and clients that note who answered.

async with agents(tmp_path, 2) as (cluster, first, second):
    port = await first.serve()                       # start_server(greet, "127.0.0.1", 0)
    await second.do("server = await asyncio.start_server(greet, '127.0.0.1', port)", port=port)
    client = await Client.connect(("127.0.0.1", port))
    assert client.worker == first.id                 # `greet` says who it is

The test's own process is the primary, so the kit finds what the primary leaks.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from everycore import Cluster, ExitStatus, Listening, Settings, Worker
from tests.kit import INSIDE, scaled, turn
from tests.kit.workers import eventually, within, worker_script

#: Seconds: longer than any test.
NEVER = 3600.0
#: Seconds: a short `recall_after`.
RECALL = 0.02

#: Runs what it is sent, in one namespace, as a console with top-level `await` would.
AGENT = """
import ast, errno, select, socketserver, ssl, threading

me = everycore.current_worker()
ID = me.id
space = globals()


async def greet(reader, writer):
    \"\"\"Says who it is, then echoes lines.\"\"\"
    try:
        writer.write(b"%d\\n" % ID)
        async for line in reader:
            writer.write(line)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def perform(order, handle):
    mode, text, values = order
    space.update(values, handle=handle)
    code = compile(text, "<test>", mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    try:
        result = eval(code, space)
        if asyncio.iscoroutine(result):
            result = await result
    except Exception as error:
        words = [cls.__name__ for cls in type(error).__mro__]
        return ["raised", words, getattr(error, "errno", None), str(error)]
    return ["returned", result]


def stand_still(message):
    \"\"\"Blocks the loop's thread until the test lets go; then, in the same turn, does what it says.\"\"\"
    with message.handle as gate:
        gate.setblocking(True)
        gate.sendall(b"!")
        gate.recv(1)
    exec(message.message, space)


async def main():
    me.answer(perform)
    me.on(everycore.Message, stand_still)
    await for_ever()


everycore.run(main())
"""
AGENT = INSIDE + AGENT


@dataclass
class Raised(Exception):
    """The error that a step raised in the worker."""

    classes: list[str]
    errno: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.classes[0]} (errno {self.errno}): {self.text}"

    def __hash__(self) -> int:
        return id(self)


class Agent:
    """A worker that runs AGENT."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.id = worker.id

    async def do(self, code: str, *, handle: Any = None, **values: Any) -> None:
        """Run statements. Names that they bind stay. `handle` arrives under the name `handle`."""
        await self._perform("exec", code, values, handle)

    async def listens(self, code: str, **values: Any) -> None:
        """As `do`, for statements that make one listener. Waits until the primary serves the worker there."""
        heard = asyncio.Event()
        subscription = self.worker.once(Listening, lambda event: heard.set())
        try:
            await self.do(code, **values)
            await within(heard.wait())
        finally:
            subscription.cancel()

    async def get(self, expression: str, **values: Any) -> Any:
        """The value of an expression."""
        return await self._perform("eval", expression, values)

    async def fails(self, code: str, **values: Any) -> Raised:
        """The error that these statements raise. The test fails if they raise none."""
        try:
            await self._perform("exec", code, values)
        except Raised as error:
            return error
        raise AssertionError(f"this did not raise: {code}")

    async def serve(self, port: int = 0, host: str = "127.0.0.1") -> int:
        """Run `server = start_server(greet, host, port)`. Returns the port."""
        await self.listens(
            "server = await asyncio.start_server(greet, host, port)\n"
            "port = server.sockets[0].getsockname()[1]",
            host=host,
            port=port,
        )
        found: int = await self.get("port")
        return found

    async def _perform(self, mode: str, code: str, values: dict[str, Any], handle: Any = None) -> Any:
        reply = await self.worker.request([mode, code, values], handle, timeout=None)
        if reply[0] == "raised":
            raise Raised(*reply[1:])
        return reply[1]

    @contextlib.asynccontextmanager
    async def standing_still(self, then: str = "") -> AsyncIterator[Callable[[], None]]:
        """Block the worker's loop within the block.

        Yields a function that ends it early. `then` runs in that very turn of the loop.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            await self.worker.send(then, theirs)
            assert await within(loop.sock_recv(ours, 1)) == b"!"

            def let_go() -> None:
                if ours.fileno() >= 0:
                    ours.close()

            yield let_go


@contextlib.asynccontextmanager
async def agents(
    folder: Path,
    count: int = 1,
    *,
    loop: str | None = None,
    grace: float | None = None,
    recall_after: float = NEVER,
    env: Mapping[str, str | None] | None = None,
    **options: Any,
) -> AsyncIterator[Any]:
    """A cluster of this process with `count` agents. Yields the cluster and the agents.

    `loop`: the event loop of the agents; by default that of the fixture `loop_kind`, or else `run`'s choice.

    A worker that gets no CPU for a while on a busy machine looks like one that blocks. So there are no
    recalls, and it keeps what it was given, unless recalls are the subject of a test.
    """
    source = AGENT
    if loop is not None:
        source = AGENT.replace("everycore.run(main())", f"everycore.run(main(), loop={loop!r})")
    script = worker_script(folder, source, f"agent-{loop}.py")
    grace = scaled(2.0) if grace is None else grace
    async with Cluster(
        Settings(exec=script, env=dict(env or {})), grace=grace, recall_after=recall_after, **options
    ) as cluster:
        yield cluster, *[Agent(cluster.fork()) for _ in range(count)]


@contextlib.asynccontextmanager
async def servers(
    folder: Path, count: int, **options: Any
) -> AsyncIterator[tuple[Cluster, list[Agent], tuple[str, int]]]:
    """As `agents`, when all of them serve one port, in the order in which they joined."""
    async with agents(folder, count, **options) as (cluster, *workers):
        port = 0
        for worker in workers:
            port = await within(worker.serve(port))
        yield cluster, workers, ("127.0.0.1", port)


class Client:
    """A connection whose server first says who it is. `worker` is its id."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.worker: int | None = None

    @classmethod
    async def open(cls, address: Any, *, tls: ssl.SSLContext | None = None) -> Self:
        """Connect. Perhaps no worker has answered yet."""
        if isinstance(address, (str, bytes)):
            address = os.fsdecode(address)
            made = asyncio.open_unix_connection(
                address, ssl=tls, server_hostname="localhost" if tls else None
            )
        else:
            made = asyncio.open_connection(
                address[0], address[1], ssl=tls, server_hostname="localhost" if tls else None
            )
        return cls(*await within(made))

    @classmethod
    async def connect(cls, address: Any, *, tls: ssl.SSLContext | None = None) -> Self:
        """Connect, and read the greeting."""
        client = await cls.open(address, tls=tls)
        try:
            await client.greeting()
        except BaseException:
            client.writer.transport.abort()
            raise
        return client

    async def greeting(self) -> int:
        """The worker that answered."""
        line = await within(self.reader.readline())
        assert line.endswith(b"\n"), f"the connection ended without an answer: {line!r}"
        self.worker = int(line)
        return self.worker

    async def echo(self, text: str = "hello") -> str:
        self.writer.write(text.encode() + b"\n")
        return (await within(self.reader.readline())).decode().rstrip("\n")

    async def ended(self) -> bytes:
        """What still came when the server has ended the connection (or reset it)."""
        try:
            return await within(self.reader.read())
        except ConnectionError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def acknowledged(cluster: Cluster) -> None:
    """Wait until the workers have acknowledged everything. Then none is late, and turns are exact.

    No event reports it, so this checks again and again; the primary runs in this very loop.
    """
    await eventually(lambda: not any(worker.outstanding for worker in cluster.snapshot().workers), turn)


async def none_open(workers: Iterable[Agent]) -> None:
    """Wait until every worker has noticed that its clients left."""
    for worker in workers:
        await within(worker.do("while inside.connections.open: await asyncio.sleep(0)"))


async def until_on_belt(cluster: Cluster, worker: Any, number: int = 1) -> None:
    """Wait until at least `number` connections were handed to `worker` (any object with its id), unpicked.

    How many there are depends on how quickly they came: a worker that keeps one too long is passed over.
    """

    def outstanding() -> int:
        (found,) = [one for one in cluster.snapshot().workers if one.id == worker.id]
        return found.outstanding

    await eventually(lambda: outstanding() >= number, turn)


async def one_by_one(cluster: Cluster, addresses: Iterable[Any]) -> list[Client]:
    """Connect a client to each address, each once the last one was acknowledged."""
    clients = []
    for address in addresses:
        clients.append(await Client.connect(address))
        await acknowledged(cluster)
    return clients


async def greetings(clients: Iterable[Client]) -> list[int]:
    """The workers that answered them."""
    return [await client.greeting() for client in clients]


async def connect_at_once(address: Any, count: int) -> list[Client]:
    """Connect `count` clients at once. The answers are read when all have connected."""
    clients = list(await asyncio.gather(*(Client.open(address) for _ in range(count))))
    await greetings(clients)
    return clients


async def close_all(clients: Sequence[Client]) -> None:
    for client in clients:
        await client.close()


@contextlib.asynccontextmanager
async def closing(clients: list[Client]) -> AsyncIterator[list[Client]]:
    """Close the clients that are in the list at the end."""
    try:
        yield clients
    finally:
        await close_all(clients)


async def answers(address: Any, agent: Agent) -> None:
    """Check that this agent answers a connection to `address`."""
    client = await Client.connect(address)
    assert client.worker == agent.id
    await client.close()


async def leaves(agent: Agent) -> None:
    """Let it leave, and check that it ends well."""
    agent.worker.disconnect()
    assert await within(agent.worker.wait()) == ExitStatus(code=0)


async def is_refused(address: Any) -> bool:
    """Whether the kernel refuses a connection to `address`."""
    try:
        client = await Client.open(address)
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    await client.close()
    return False
