"""Node's `child_process` tests of sockets, shared with a child, given to it or counted, and of its output."""

import asyncio
import errno
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest

from everycore import ChannelClosed, Cluster, ExitStatus, Settings, Worker
from tests.conformance.node import node
from tests.kit import open_fds
from tests.kit.traffic import Client, agents, close_all, is_refused
from tests.kit.workers import heard, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"


class Accepting:
    """A server of this process: it accepts connections that are then given away."""

    def __init__(self) -> None:
        self.sock = socket.create_server((LOCAL, 0))
        self.sock.setblocking(False)
        self.address = self.sock.getsockname()

    async def connection(self) -> tuple[Client, socket.socket]:
        """Make a connection. Returns the client's end and the server's."""
        client = await Client.open(self.address)
        accepted, _ = await asyncio.get_running_loop().sock_accept(self.sock)
        return client, accepted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()


@node("test-child-process-fork-net-server")
async def test_child_process_fork_net_server(tmp_path):
    """A worker serves this process's listening socket too; it is closed when both have closed it."""
    source = """
    async def main():
        me = everycore.current_worker()
        messages = me.messages()

        async def connection(reader, writer):
            writer.write(b"%d\\n" % me.id)
            writer.close()

        server = await asyncio.start_server(connection, sock=(await anext(messages)).handle)
        await me.send("listening")
        await anext(messages)
        server.close()
        await server.wait_closed()
        await me.send("close")

    everycore.run(main())
    """

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"0\n")
        writer.close()

    async def answered() -> int | None:
        client = await Client.connect(address)
        assert await client.ended() == b""
        await client.close()
        return client.worker

    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        child = cluster.fork()
        sock = socket.create_server((LOCAL, 0))
        address = sock.getsockname()
        await child.send("server", sock, keep_open=True)
        assert await heard(child) == "listening"
        server = await asyncio.start_server(connection, sock=sock)
        assert set(await asyncio.gather(*(answered() for _ in range(4)))) <= {0, child.id}
        server.close()
        await server.wait_closed()
        assert [await answered() for _ in range(4)] == [child.id] * 4
        await child.send("close")
        assert await heard(child) == "close"
        assert await is_refused(address)
        assert await within(child.wait()) == ExitStatus(code=0)


@node("test-child-process-fork-net-socket")
async def test_child_process_fork_net_socket(tmp_path):
    """A worker answers a connection that this process accepted; then the server here can close."""
    source = """
    async def main():
        message = await anext(everycore.current_worker().messages())
        reader, writer = await asyncio.open_connection(sock=message.handle)
        writer.write(b"echo")
        writer.close()
        await writer.wait_closed()

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        child = cluster.fork()
        with Accepting() as server:
            client, accepted = await server.connection()
            await child.send("socket", accepted)
            assert accepted.fileno() == -1
            assert await client.ended() == b"echo"
            await client.close()
        assert await is_refused(server.address)
        assert await within(child.wait()) == ExitStatus(code=0)


@node(
    "test-child-process-fork-net",
    adapted="A server does not know of connections that were given away, so it closes at once. What "
    "waits for them is the worker that leaves, and with it `cluster.disconnect()`.",
)
async def test_child_process_fork_net(tmp_path):
    """Twelve connections go to three workers: half are ended there, the others when their clients end.

    Adapted: the workers' end waits for them, not the server's.
    """
    source = """
    async def main():
        me = everycore.current_worker()
        tasks = set()

        async def serve(what, sock):
            reader, writer = await asyncio.open_connection(sock=sock)
            writer.write(what.encode())
            if what == "write":
                await reader.read()
            writer.close()

        async for message in me.messages():
            tasks.add(asyncio.create_task(serve(message.message, message.handle)))

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), grace=20.0) as cluster:
        children = [cluster.fork() for _ in range(3)]
        clients = []
        with Accepting() as server:
            for number in range(12):
                client, accepted = await server.connection()
                clients.append(client)
                # Every worker has two of each.
                await children[number % 3].send(["end", "write"][number // 3 % 2], accepted)
        ended = [client for number, client in enumerate(clients) if number // 3 % 2 == 0]
        for client in ended:
            assert await client.ended() == b"end"
        kept = [client for client in clients if client not in ended]
        for client in kept:
            assert await within(client.reader.readexactly(5)) == b"write"
        leaving = asyncio.create_task(cluster.disconnect())
        for child in children[:2]:
            for client in kept[children.index(child) :: 3]:
                client.writer.write_eof()
                await client.close()
            assert await within(child.wait()) == ExitStatus(code=0)
        last = kept[2::3]
        assert [client.reader.at_eof() for client in last] == [False, False]
        assert not leaving.done()
        assert list(cluster.workers) == [children[2].id]
        await close_all([*ended, *kept])
        await within(leaving)
        assert len(cluster.workers) == 0


@node(
    "test-child-process-fork-getconnections",
    adapted="`server.getConnections()` is `cluster.snapshot().workers[i].open`: the connections of "
    "the listeners that the worker has from the primary. The worker is not asked.",
)
async def test_child_process_fork_getconnections(tmp_path, policy):
    """The primary knows how many connections are open in its workers, while they are closed one by one.

    Adapted: they are the cluster's own connections, not sockets sent by a message.
    """
    holding = """
writers = []

async def hold(reader, writer):
    writers.append(writer)
    writer.write(b"%d\\n" % ID)
    await reader.read()

server = await asyncio.start_server(hold, "127.0.0.1", 0)
port = server.sockets[0].getsockname()[1]
"""
    async with agents(tmp_path, 2, policy=policy) as (cluster, *workers):
        for worker in workers:
            await worker.listens(holding)
        address = (LOCAL, await workers[0].get("port"))
        clients = [await Client.connect(address) for _ in range(12)]
        expected = Counter(client.worker for client in clients)
        for worker in workers:
            while expected[worker.id]:
                assert Counter({it.id: it.open for it in cluster.snapshot().workers}) == expected
                await worker.do("writer = writers.pop(); writer.close(); await writer.wait_closed()")
                expected[worker.id] -= 1
        assert [it.open for it in cluster.snapshot().workers] == [0, 0]
        await close_all(clients)


@node(
    "test-child-process-http-socket-leak",
    adapted="The connection is given away as a socket, before asyncio holds it: a transport or "
    "StreamWriter is refused with TypeError, because the data in its buffer would be lost.",
)
async def test_child_process_http_socket_leak(tmp_path):
    """A worker answers an HTTP request that this process has read, which keeps nothing of the connection.

    Adapted: Node releases its parser and timer; here neither exists, because a transport cannot be sent.
    """
    source = """
    async def main():
        me = everycore.current_worker()
        message = await anext(me.messages())
        reader, writer = await asyncio.open_connection(sock=message.handle)
        body = message.message["path"].encode()
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
        writer.close()
        await writer.wait_closed()
        await for_ever()

    everycore.run(main())
    """
    loop = asyncio.get_running_loop()
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        child = cluster.fork()
        before = open_fds()
        with Accepting() as server:
            client, accepted = await server.connection()
        client.writer.write(b"GET /path HTTP/1.1\r\n\r\n")
        request = await within(loop.sock_recv(accepted, 100))
        _, writer = await asyncio.open_connection(sock=accepted.dup())
        for handle in (writer, writer.transport):
            with pytest.raises(TypeError):
                child.send_nowait("not this", handle)
        writer.close()
        await writer.wait_closed()
        await child.send({"path": request.split()[1].decode()}, accepted)
        assert (await client.ended()).partition(b"\r\n\r\n")[2] == b"/path"
        await client.close()
        assert open_fds() == before


#: A worker that holds the connections sent to it. It says how many there are, and when none is left.
HOLDER = """
held = set()
none_left = asyncio.Event()

async def hold(sock):
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(b"%d\\n" % everycore.current_worker().id)
    await reader.read()
    writer.close()
    held.discard(asyncio.current_task())
    if not held:
        none_left.set()

async def answer(message, handle):
    match message:
        case "new":
            held.add(asyncio.create_task(hold(handle)))
            none_left.clear()
        case "count":
            return len(held)
        case "notify close":
            if held:
                await none_left.wait()
            return "all closed"
        case "die":
            os._exit(3)

async def main():
    everycore.current_worker().answer(answer)
    await for_ever()

everycore.run(main())
"""


@asynccontextmanager
async def holder(folder: Path) -> AsyncIterator[tuple[Worker, list[Client]]]:
    """Have a worker hold two connections. Returns it and the other ends."""
    async with Cluster(Settings(exec=worker_script(folder, HOLDER)), grace=1.0) as cluster:
        child = cluster.fork()
        clients = []
        with Accepting() as server:
            for _ in range(2):
                client, accepted = await server.connection()
                await child.request("new", accepted, timeout=None)
                clients.append(client)
                assert await client.greeting() == child.id
        try:
            yield child, clients
        finally:
            await close_all(clients)


@node(
    "test-internal-socket-list-send",
    adapted="There is no list of sockets given away: a program asks with `request`. If the child "
    "closes before it replies, the request raises ChannelClosed, with the exit status.",
)
async def test_internal_socket_list_send(tmp_path):
    """A request to a worker about the sockets it was given gets the reply, or the news that it has ended.

    Adapted: the program sends requests of its own.
    """
    async with holder(tmp_path) as (child, clients):
        assert await within(child.request("count", timeout=None)) == 2
        closing = asyncio.create_task(child.request("notify close", timeout=None))
        await close_all(clients)
        assert await within(closing) == "all closed"
        with pytest.raises(ChannelClosed) as before_the_reply:
            await within(child.request("die", timeout=None))
        assert before_the_reply.value.status == ExitStatus(code=3)
        with pytest.raises(ChannelClosed):
            await child.request("count", timeout=None)


@node(
    "test-internal-socket-list-receive",
    adapted="There is no list of sockets received: a program counts its connections and answers with"
    " `answer(handler)`.",
)
async def test_internal_socket_list_receive(tmp_path):
    """A worker reports how many of the sockets it was given are open; no reply goes to a closed channel.

    Adapted: the program sends requests of its own.
    """
    async with holder(tmp_path) as (child, clients):
        for left in (1, 0):
            client = clients.pop()
            client.writer.write_eof()
            assert await client.ended() == b""
            await client.close()
            assert await within(child.request("count", timeout=None)) == left
        assert await within(child.request("notify close", timeout=None)) == "all closed"
        # A reply is still due when the channel ends: the worker leaves all the same.
        owed = asyncio.create_task(child.request("count", timeout=None))
        child.disconnect()
        assert await within(child.wait()) == ExitStatus(code=0)
        await asyncio.gather(owed, return_exceptions=True)


@node(
    "test-process-external-stdio-close",
    "test-process-external-stdio-close-spawn",
    adapted="In Python the `print` fails, with BrokenPipeError, and buffered output fails once more "
    "at the exit (status 120), in any process. No signal ends the worker, and its channel "
    "stays.",
)
async def test_process_external_stdio_close(tmp_path):
    """A worker that prints into a pipe without a reader goes on, and ends with status 0.

    Adapted: it catches BrokenPipeError, and its output is not buffered (`-u`).
    """
    source = """
    async def main():
        me = everycore.current_worker()
        assert (await anext(me.messages())).message == "go"
        try:
            print("logging should not cause a crash")
        except BrokenPipeError as error:
            await me.send(error.errno)
        me.disconnect()
        await for_ever()

    everycore.run(main())
    """
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stdout:
        settings = Settings(
            exec=worker_script(tmp_path, source), exec_argv=["-u"], stdio=["null", stdout, "inherit"]
        )
        async with Cluster(settings) as cluster:
            child = cluster.fork()
            os.close(reading)
            await child.send("go")
            assert await heard(child) == errno.EPIPE
            assert await within(child.wait()) == ExitStatus(code=0)
