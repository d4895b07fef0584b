"""Node's tests of a forked child's channel: what can be sent, in which order, and how it ends."""

import array
import asyncio
import math
import socket
import textwrap
from typing import Any

import pytest

from everycore import (
    ChannelClosed,
    ChannelFull,
    Cluster,
    ConfigurationError,
    Disconnected,
    ExitStatus,
    Listening,
    Message,
    Settings,
    State,
)
from tests.conformance.node import node
from tests.kit import turn
from tests.kit.workers import Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: Sends back what it receives.
MIRROR = """
async def main():
    me = everycore.current_worker()
    async for message in me.messages():
        await me.send(message.message)

everycore.run(main())
"""


@node(
    "test-child-process-disconnect",
    adapted="disconnect() asks the worker to leave: the channel stays open until the worker's "
    "connections have ended or the grace is over. A second call is allowed.",
)
async def test_child_process_disconnect(tmp_path, policy):
    """No call drops the channel and leaves the worker alone."""
    source = """
    async def serve(reader, writer):
        me = everycore.current_worker()
        writer.write(b"ready\\n")
        await me.wait_shutdown()
        writer.write(f"leaving, connected: {me.is_connected()}\\n".encode())
        await reader.read()  # until the client has ended
        writer.close()

    async def main():
        me = everycore.current_worker()
        closed = asyncio.Event()
        me.on(everycore.Disconnected, lambda event: closed.set())
        await asyncio.start_server(serve, "127.0.0.1", 0)
        await me.wait_shutdown()
        await closed.wait()
        say(f"closed, connected: {me.is_connected()}")

    everycore.run(main())
    """
    async with Cluster(
        Settings(exec=worker_script(tmp_path, source), silent=True), policy=policy, grace=1000.0
    ) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        listening = await diary.until(Listening, worker)
        connected: list[bool] = []
        worker.on(Disconnected, lambda event: connected.append(worker.is_connected()))
        reader, writer = await within(asyncio.open_connection(*listening.address))
        assert await within(reader.readline()) == b"ready\n"

        assert worker.disconnect() is worker
        assert worker.disconnect() is worker
        assert worker.is_connected()
        assert connected == []  # not from within the call
        assert await within(reader.readline()) == b"leaving, connected: True\n"
        assert worker.state is State.DRAINING
        writer.close()
        await writer.wait_closed()

        assert await within(worker.wait()) == ExitStatus(code=0)  # by itself
        assert connected == [False]
        assert worker.exited_voluntarily
        assert worker.stdout
        assert await within(worker.stdout.read()) == b"closed, connected: False\n"


@node(
    "test-child-process-internal",
    adapted="No message is reserved, and there is no event for internal messages: on the wire the "
    "program's messages have a type of their own, whatever they contain.",
)
async def test_child_process_internal(tmp_path):
    source = """
    async def main():
        me = everycore.current_worker()
        for message in eval(sys.argv[1]):
            await me.send(message)

    everycore.run(main())
    """
    messages = [
        {"cmd": "fooNODE_"},
        {"cmd": "NODE_bar"},
        {"cmd": "_EVERYCORE_WORKER"},
        {"type": "Disconnect"},
        {"type": "Joined", "id": 1},
        ["Drained"],
        "Online",
    ]
    script = worker_script(tmp_path, source)
    async with Cluster(Settings(exec=script, args=[repr(messages)])) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        stream = worker.messages()
        assert await within(worker.wait()) == ExitStatus(code=0)
        assert [message.message async for message in stream] == messages
        assert diary.names(worker) == ["Forked", "Online", "Disconnected", "Exited"]


@node("test-child-process-send-after-close")
async def test_child_process_send_after_close(tmp_path):
    """Python's counterpart of the callback and the 'error' event: the call raises."""
    async with Cluster(Settings(exec=worker_script(tmp_path, ""))) as cluster:
        worker = cluster.fork()
        messages = worker.messages()
        assert await within(worker.wait()) == ExitStatus(code=0)
        calls: list[Any] = [worker.send, worker.send_nowait, lambda text: worker.request(text, timeout=None)]
        for call in calls:
            with pytest.raises(ChannelClosed, match="worker 1 is closed") as caught:
                call("ping")
            assert caught.value.status == ExitStatus(code=0)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            with pytest.raises(ChannelClosed):
                worker.send_nowait("pong", theirs)
            assert theirs.fileno() >= 0  # a handle that was not sent stays the sender's
        assert [message async for message in messages] == []


@node("test-child-process-send-cb")
async def test_child_process_send_cb(tmp_path):
    """Python's counterpart of the callback: the awaited call returns."""
    source = """
    async def main():
        result = await everycore.current_worker().send("ok")
        sys.exit(0 if result is None else 1)

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        assert (await within(anext(worker.messages()))).message == "ok"
        assert await within(worker.wait()) == ExitStatus(code=0)


@node("test-child-process-send-keep-open")
async def test_child_process_send_keep_open(tmp_path):
    source = """
    async def main():
        me = everycore.current_worker()
        message = await anext(me.messages())
        assert message.message == "socket"
        message.handle.setblocking(True)
        message.handle.sendall(b"child")
        message.handle.close()
        await me.send("child_done")

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            connection, _ = server.accept()
        with client, connection:
            client.setblocking(False)
            await worker.send("socket", connection, keep_open=True)
            assert (await within(anext(worker.messages()))).message == "child_done"
            connection.sendall(b"parent")
            connection.close()
            loop = asyncio.get_running_loop()
            got = b""
            while chunk := await within(loop.sock_recv(client, 100)):
                got += chunk
            assert got == b"childparent"
        assert await within(worker.wait()) == ExitStatus(code=0)


@node(
    "test-child-process-send-returns-boolean",
    adapted="Where Node returns false but still queues the message, send_nowait raises ChannelFull "
    "and sends nothing; an awaited send waits. The limit counts bytes and messages not yet "
    "taken, not unacknowledged handles.",
)
async def test_child_process_send_returns_boolean(tmp_path):
    """Messages arrive complete and in order, and there is room again once the worker takes some."""
    source = """
    async def main():
        me = everycore.current_worker()
        await me.send("here")
        handle = (await anext(go := me.messages())).handle
        handle.setblocking(True)
        handle.sendall(b"!")
        handle.recv(1)
        count = 0
        async for message in go:
            if message.message is None:
                break
            assert message.message[0] == count
            count += 1
            if message.handle is not None:
                message.handle.close()
        await me.send(count)

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        messages = worker.messages()
        assert (await within(anext(messages))).message == "here"
        gate, theirs = socket.socketpair()
        mine, other = socket.socketpair()
        with gate, theirs, mine, other:
            gate.setblocking(False)
            worker.send_nowait("gate", theirs)
            loop = asyncio.get_running_loop()
            assert await within(loop.sock_recv(gate, 1)) == b"!"  # it blocks, and takes no more messages
            sent = 0
            for _ in range(4):  # two handles on the way do not delay these, in Node either
                worker.send_nowait([sent], other, keep_open=True)
                sent += 1
            with pytest.raises(ChannelFull, match="worker 1"):
                while True:
                    worker.send_nowait([sent, "." * 10_000])
                    sent += 1
                    assert sent < 10_000
            with pytest.raises(ChannelFull):
                worker.send_nowait([sent], other)
            assert other.fileno() >= 0  # nothing was sent or given away
            waiting = asyncio.create_task(worker.send([sent]))
            sent += 1
            await turn(3)
            assert not waiting.done()

            gate.send(b"!")
            await within(waiting)
            worker.send_nowait([sent])
            sent += 1
            await within(worker.send(None))
            assert (await within(anext(messages))).message == sent
        assert await within(worker.wait()) == ExitStatus(code=0)


@node("test-child-process-send-type-error")
async def test_child_process_send_type_error(tmp_path):
    """On both sides. Python's options are keywords, and a value that is not a handle is refused too."""
    wrong = """
    def wrong(target):
        sends = [target.send, target.send_nowait, lambda *words: target.request(*words, timeout=None)]
        for send in sends:
            for words in (("msg", None, None), ("msg", None, ""), ("msg", None, 0), ("msg", None, {})):
                try:
                    send(*words)
                except TypeError as error:
                    assert "positional" in str(error), error
                else:
                    raise AssertionError(words)
            for handle in ("foo", 0, 1.5, True, {}, [], object(), float("nan")):
                try:
                    send("msg", handle)
                except TypeError as error:
                    assert "handle must be" in str(error), error
                else:
                    raise AssertionError(handle)
    """
    source = f"""
    {wrong}
    async def main():
        wrong(everycore.current_worker())

    everycore.run(main())
    """
    namespace: dict[str, Any] = {}
    exec(textwrap.dedent(wrong), namespace)
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        messages = worker.messages()
        namespace["wrong"](worker)
        assert await within(worker.wait()) == ExitStatus(code=0)
        assert [message.message async for message in messages] == []


@node(
    "test-child-process-advanced-serialization",
    adapted="The formats are called 'json' (with bytes) and 'pickle'. Pickle carries whatever both "
    "sides can import, and runs code on reading. Python's exceptions compare by identity, so "
    "the test compares type and args.",
)
async def test_child_process_advanced_serialization(tmp_path):
    settings = Settings(exec=worker_script(tmp_path, MIRROR))
    wrong: Any
    for wrong in (None, 42, math.inf, "foo", "advanced"):
        with pytest.raises(ConfigurationError, match="serialization"):
            settings.merged({"serialization": wrong})
    circular: dict[str, Any] = {}
    circular["circular"] = circular
    values: list[Any] = [
        {"uint8": array.array("B", bytes(4))},
        {"float64": array.array("d", [math.pi])},
        {"bytes": b"Hello!"},
        {"bytearray": bytearray(b"Hello!")},
        {"dict": {("a", 1): {2}, frozenset("b"): None}},
        {"int": 1337**100},
        {"complex": 3 + 4j},
    ]
    async with Cluster(settings) as cluster:
        cluster.setup_primary(serialization="pickle")
        worker = cluster.fork()
        messages = worker.messages()
        for value in values:
            await worker.send(value)
            back = (await within(anext(messages))).message
            assert back == value
            assert [type(item) for item in back.values()] == [type(item) for item in value.values()]
        await worker.send(circular)
        back = (await within(anext(messages))).message
        assert list(back) == ["circular"]
        assert back["circular"] is back
        for error in (Exception("Something went wrong"), IndexError("Something range-y went wrong")):
            await worker.send(error)
            back = (await within(anext(messages))).message
            assert type(back) is type(error)
            assert back.args == error.args
        worker.disconnect()
        assert await within(worker.wait()) == ExitStatus(code=0)


@node("test-child-process-advanced-serialization-largebuffer")
@pytest.mark.parametrize("serialization", ["pickle", "json"])
async def test_child_process_advanced_serialization_largebuffer(tmp_path, serialization):
    source = """
    async def main():
        me = everycore.current_worker()
        for number in range(4):
            await me.send(bytes([number]) * (8 << 20))

    everycore.run(main())
    """
    settings = Settings(exec=worker_script(tmp_path, source), serialization=serialization)
    async with Cluster(settings) as cluster:
        worker = cluster.fork()
        messages = worker.messages()
        for number in range(4):
            assert (await within(anext(messages))).message == bytes([number]) * (8 << 20)
        assert await within(worker.wait()) == ExitStatus(code=0)


@node("test-child-process-advanced-serialization-splitted-length-field")
@pytest.mark.parametrize("serialization", ["pickle", "json"])
async def test_child_process_advanced_serialization_splitted_length_field(tmp_path, serialization):
    """Reads are of 64 KiB at most, and the second frame of each pair begins at about the end of one."""
    source = """
    async def main():
        me = everycore.current_worker()
        for size in range(65500, 65540):
            # The first leaves by itself; the two behind it, in one piece. All are queued at the call.
            sent = [me.send(message) for message in (b"", b"." * size, b"." * size)]
            await asyncio.gather(*sent)  # as long as the primary, on a busy machine, reads nothing

    everycore.run(main())
    """
    settings = Settings(exec=worker_script(tmp_path, source), serialization=serialization)
    seen: list[int] = []
    async with Cluster(settings) as cluster:
        worker = cluster.fork()
        worker.on(Message, lambda event: seen.append(len(event.message)))
        assert await within(worker.wait()) == ExitStatus(code=0)
    assert seen == [length for size in range(65500, 65540) for length in (0, size, size)]
