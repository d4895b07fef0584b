"""Descriptors with messages, both ways: every kind arrives, each with its own message, none is lost."""

import asyncio
import os
import socket
from signal import SIGKILL

import pytest

from everycore import Cluster, Descriptor, ExitStatus, Message, RequestFailed, Settings
from tests.kit import open_fds, turn, usable, wait_readable
from tests.kit.workers import within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30), pytest.mark.usefixtures("loop_kind")]

#: For either side: makes a handle of each kind with its other end, and tries one that came.
KINDS = '''
import socket, os

def make(kind, folder):
    """The handle, and the other end."""
    if kind == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            return server.accept()[0], client
    if kind == "unix":
        return socket.socketpair()
    if kind == "listening":
        server = socket.create_server(("127.0.0.1", 0))
        return server, server.getsockname()
    if kind == "udp":
        handle, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        handle.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        other.connect(handle.getsockname())
        handle.connect(other.getsockname())
        return handle, other
    if kind == "file":
        path = os.path.join(folder, f"file of {os.getpid()}")
        return open(path, "w+b", buffering=0), path
    if kind == "pipe":
        reading, writing = os.pipe()
        return open(writing, "wb", buffering=0), open(reading, "rb", buffering=0)
    if kind == "descriptor":
        reading, writing = os.pipe()
        return everycore.Descriptor(writing), open(reading, "rb", buffering=0)
    raise ValueError(kind)

def use(kind, handle):
    """Writes "used" to a handle that came, and says what it is."""
    what = type(handle).__name__
    if kind == "listening":
        handle.setblocking(True)
        connection, _ = handle.accept()
        connection.sendall(b"used")
        connection.close()
        what += f" {handle.family.name} {handle.type.name}"
    elif kind in ("tcp", "unix", "udp"):
        handle.setblocking(True)
        handle.send(b"used")
        what += f" {handle.family.name} {handle.type.name}"
    else:
        os.write(handle.fileno(), b"used")
    handle.close()
    return what

def look(kind, other):
    """What the other end of a handle got."""
    if kind == "listening":
        with socket.create_connection(other) as client:
            return client.recv(100)
    if kind == "file":
        with open(other, "rb") as file:
            return file.read()
    with other:
        return other.recv(100) if isinstance(other, socket.socket) else other.read(100)
'''

WHAT = {
    "tcp": "socket AF_INET SOCK_STREAM",
    "unix": "socket AF_UNIX SOCK_STREAM",
    "listening": "socket AF_INET SOCK_STREAM",
    "udp": "socket AF_INET SOCK_DGRAM",
    "file": "Descriptor",
    "pipe": "Descriptor",
    "descriptor": "Descriptor",
}

WORKER = (
    KINDS
    + """
async def main():
    me = everycore.current_worker()
    more = me.messages()
    async for message in more:
        match message.message:
            case ["use", kind]:
                await me.send("using")
                await me.send(use(kind, message.handle))
            case ["make", kind, folder]:
                handle, other = make(kind, folder)
                await me.send(kind, handle)
                try:
                    handle.fileno() >= 0 and os.fstat(handle.fileno())
                    await me.send("open" if handle.fileno() >= 0 else "detached")
                except (OSError, ValueError):
                    await me.send("detached")
                if kind == "file":  # its reader never waits
                    await anext(more)
                await me.send(await asyncio.to_thread(look, kind, other))
            case ["descriptors"]:
                await me.send(len(os.listdir("/proc/self/fd")))
            case other:
                await me.send([other, message.handle is not None])
everycore.run(main())
"""
)

kinds: dict = {}
exec("import everycore\n" + KINDS, kinds)  # the same helpers, on this side
make, use, look = kinds["make"], kinds["use"], kinds["look"]


class Mailbox:
    def __init__(self, worker) -> None:
        self.worker = worker
        self.stream = worker.messages()

    async def get(self) -> Message:
        message: Message = await within(anext(self.stream))
        return message

    async def text(self) -> object:
        return (await self.get()).message


class TestEachKind:
    @pytest.mark.parametrize("kind", WHAT)
    async def test_to_a_worker(self, tmp_path, kind):
        async with Cluster(Settings(exec=worker_script(tmp_path, WORKER))) as cluster:
            worker = cluster.fork()
            box = Mailbox(worker)
            handle, other = make(kind, tmp_path)
            await worker.send(["use", kind], handle)
            assert not usable(handle)
            assert await box.text() == "using"
            if kind == "file":  # its reader never waits
                assert await box.text() == WHAT[kind]
            assert await asyncio.to_thread(look, kind, other) == b"used"
            if kind != "file":
                assert await box.text() == WHAT[kind]

    @pytest.mark.parametrize("kind", WHAT)
    async def test_from_a_worker(self, tmp_path, kind):
        async with Cluster(Settings(exec=worker_script(tmp_path, WORKER))) as cluster:
            worker = cluster.fork()
            box = Mailbox(worker)
            await worker.send(["make", kind, str(tmp_path)])
            message = await box.get()
            assert message.message == kind
            assert await box.text() == "detached"
            assert await asyncio.to_thread(use, kind, message.handle) == WHAT[kind]
            await worker.send("used")
            assert await box.text() == b"used"

    async def test_keep_open_leaves_the_senders_alone(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, WORKER))) as cluster:
            worker = cluster.fork()
            box = Mailbox(worker)
            ours, theirs = socket.socketpair()
            with ours, theirs:
                await worker.send(["use", "unix"], theirs, keep_open=True)
                assert await box.text() == "using"
                assert await asyncio.to_thread(ours.recv, 100) == b"used"
                theirs.sendall(b"still open")
                assert ours.recv(100) == b"still open"

    async def test_detached_at_once_even_if_it_is_not_awaited(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, WORKER))) as cluster:
            worker = cluster.fork()
            box = Mailbox(worker)
            ours, theirs = socket.socketpair()
            with ours:
                sending = worker.send(["use", "unix"], theirs)
                with pytest.raises(OSError, match="Bad file descriptor"):
                    theirs.send(b"x")
                await sending
                assert await box.text() == "using"
                assert await asyncio.to_thread(ours.recv, 100) == b"used"

    async def test_a_connection_that_a_client_goes_on_using(self, tmp_path):
        """Accepted here and served there, by streams made from the socket (rule 2: used as it is)."""
        source = """
        async def main():
            me = everycore.current_worker()
            async for message in me.messages():
                reader, writer = await asyncio.open_connection(sock=message.handle)
                async for line in reader:
                    writer.write(line.upper())
                writer.close()
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            with socket.create_server(("127.0.0.1", 0)) as server:
                reader, writer = await asyncio.open_connection(*server.getsockname())
                connection, _ = server.accept()
            await worker.send("serve this", connection)
            for word in (b"one\n", b"two\n"):
                writer.write(word)
                assert await within(reader.readline()) == word.upper()
            writer.close()
            await writer.wait_closed()

    async def test_a_listening_socket_is_served_without_the_primary(self, tmp_path):
        source = """
        async def echo(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        async def main():
            me = everycore.current_worker()
            message = await anext(me.messages())
            server = await asyncio.start_server(echo, sock=message.handle)
            await me.send("serving")
            await server.serve_forever()
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            box = Mailbox(worker)
            with socket.create_server(("127.0.0.1", 0)) as server:
                await worker.send("listen", server, keep_open=True)
                assert await box.text() == "serving"
                assert cluster.snapshot().listeners == ()
                reader, writer = await asyncio.open_connection(*server.getsockname())
                writer.write(b"hello\n")
                assert await within(reader.readline()) == b"hello\n"
                writer.close()
                await writer.wait_closed()

    async def test_with_a_request(self, tmp_path):
        source = """
        async def answer(message, handle):
            handle.setblocking(True)
            handle.sendall(message.encode())
            handle.close()
            return "done"

        async def main():
            everycore.current_worker().answer(answer)
            await for_ever()
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            ours, theirs = socket.socketpair()
            with ours:
                assert await within(worker.request("hello", theirs, timeout=None)) == "done"
                assert ours.recv(100) == b"hello"

    async def test_with_an_unanswered_request_it_is_closed(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, WORKER))) as cluster:
            worker = cluster.fork()
            ours, theirs = socket.socketpair()
            with ours:
                with pytest.raises(RequestFailed):
                    await within(worker.request("hello", theirs, timeout=None))
                assert ours.recv(100) == b""


class TestStayingWithTheMessage:
    async def test_among_messages_of_every_size(self, tmp_path):
        """However the bytes are split, each handle is a pipe that contains its message's number."""
        source = """
        async def main():
            me = everycore.current_worker()
            seen = 0
            async for message in me.messages():
                number, padding = message.message
                assert number == seen, (number, seen)
                seen += 1
                assert (message.handle is not None) == (number % 3 == 0), number
                if message.handle is not None:
                    with message.handle as handle:
                        assert os.read(handle.fileno(), 100) == b"%d" % number, number
                if number == 599:
                    await me.send("all well")
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            box = Mailbox(worker)
            for number in range(600):
                handle = None
                if number % 3 == 0:
                    reading, writing = os.pipe()
                    os.write(writing, b"%d" % number)
                    os.close(writing)
                    handle = Descriptor(reading)
                padding = "x" * (70_000 if number % 50 == 0 else number * 7 % 1000)
                await within(worker.send([number, padding], handle))
            assert await box.text() == "all well"

    @pytest.mark.parametrize("count", [500])
    async def test_both_sides_send_many_at_once_and_never_wait_for_each_other(self, tmp_path, count):
        source = f"""
        def pipe_with(number):
            reading, writing = os.pipe()
            os.write(writing, b"%d" % number)
            os.close(writing)
            return everycore.Descriptor(reading)

        async def main():
            me = everycore.current_worker()

            async def send():
                for number in range({count}):
                    await me.send(number, pipe_with(number))

            async def receive():
                messages = me.messages()
                for number in range({count}):
                    message = await anext(messages)
                    with message.handle as handle:
                        assert message.message == int(os.read(handle.fileno(), 100)) == number

            await asyncio.gather(send(), receive())
            await me.send("all well")
        everycore.run(main())
        """

        def pipe_with(number: int) -> Descriptor:
            reading, writing = os.pipe()
            os.write(writing, b"%d" % number)
            os.close(writing)
            return Descriptor(reading)

        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            box = Mailbox(worker)

            async def send() -> None:
                for number in range(count):
                    await worker.send(number, pipe_with(number))

            async def receive() -> None:
                for number in range(count):
                    message = await box.get()
                    assert isinstance(message.handle, Descriptor)
                    with message.handle as handle:
                        assert message.message == int(os.read(handle.fileno(), 100)) == number

            await within(asyncio.gather(send(), receive()), 20)
            assert await box.text() == "all well"
            assert await within(worker.wait()) == ExitStatus(code=0)

    async def test_a_flood_that_is_not_yet_taken_loses_none(self, tmp_path):
        """More than the window is sent before the worker is there; the sender's descriptors are released."""
        source = """
        async def main():
            me = everycore.current_worker()
            total = 0
            async for message in me.messages():
                with message.handle as handle:
                    total += int(os.read(handle.fileno(), 100))
                if message.message == 299:
                    await me.send(total)
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            box = Mailbox(worker)
            before = len(open_fds())
            for number in range(300):
                reading, writing = os.pipe()
                os.write(writing, b"%d" % number)
                os.close(writing)
                worker.send_nowait(number, Descriptor(reading))
            assert await box.text() == sum(range(300))
            assert len(open_fds()) == before

    async def test_neither_side_keeps_a_descriptor(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, WORKER))) as cluster:
            worker = cluster.fork()
            box = Mailbox(worker)
            await worker.send(["descriptors"])
            count, before = await box.text(), open_fds()
            for kind, what in WHAT.items():
                handle, other = make(kind, tmp_path)
                await worker.send(["use", kind], handle)
                if kind != "file":
                    await asyncio.to_thread(look, kind, other)
                assert [await box.text(), await box.text()] == ["using", what]
            await worker.send(["descriptors"])
            assert await box.text() == count
            assert open_fds() == before


class TestTakers:
    async def test_handles_never_taken_are_closed_with_the_worker_and_warned_about_once(
        self, tmp_path, caplog
    ):
        """A fork of the worker that outlives it sees the other ends close."""
        source = """
        async def main():
            me, told = everycore.current_worker(), int(os.environ["TOLD"])
            ours, theirs = zip(*(socket.socketpair() for _ in range(3)))
            for sock in theirs:
                await me.send("take this", sock)
            if os.fork() == 0:
                os.setpgid(0, 0)
                keep = {told, *(sock.fileno() for sock in ours)}
                for fd in set(range(3, 100)) - keep:  # what still waits to be sent is here as well
                    with contextlib.suppress(OSError):
                        os.close(fd)
                for sock in ours:
                    assert sock.recv(1) == b""
                os.write(told, b"closed")
                os._exit(0)
        everycore.run(main())
        """
        heard, told = os.pipe()
        env = {"TOLD": str(told)}
        settings = Settings(exec=worker_script(tmp_path, source), cwd=tmp_path, env=env, pass_fds=[told])
        before = open_fds()
        try:
            async with Cluster(settings) as cluster:
                worker = cluster.fork()
                assert await within(worker.wait()) == ExitStatus(code=0)
                left = [what for fd, what in open_fds().items() if fd not in before and "memfd" not in what]
                assert left == []
            assert caplog.text.count("taken by nobody") == 1
            assert wait_readable(heard, 10)
            assert os.read(heard, 100) == b"closed"
        finally:
            os.close(heard)
            os.close(told)


class TestRefused:
    async def test_on_its_way_to_a_worker_that_dies_it_is_closed(self, tmp_path):
        """No process holds it any more, and the other end learns that."""
        source = """
        signal.pause()
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            ours, theirs = socket.socketpair()
            with ours:
                await worker.send("x", theirs)
                for _ in range(3000):
                    worker.send("behind").close()
                worker.kill(SIGKILL)
                await within(worker.wait())
                await turn()
                assert ours.recv(1) == b""
