"""Node's tests of a worker's beginning: events, messages, and what each side knows of the other."""

import asyncio
import json
import signal
import socket
from typing import Any

import pytest

from everycore import (
    Cluster,
    Disconnected,
    Exited,
    ExitStatus,
    Forked,
    Listening,
    Message,
    Online,
    Settings,
    Worker,
)
from everycore.testing import FakeWorkers, settle
from tests.conformance.node import node
from tests.kit.traffic import Client
from tests.kit.workers import ECHO, HEAD, Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: The variable that names a worker in its environment, until the worker has read it.
VARIABLE = "_EVERYCORE_WORKER"


def environment(pid: int) -> dict[str, str]:
    """The environment with which a process was started."""
    with open(f"/proc/{pid}/environ", encoding="utf-8") as file:
        return dict(entry.split("=", 1) for entry in file.read().split("\0") if entry)


@node("test-cluster-basic")
async def test_cluster_basic(tmp_path, policy, start_program):
    source = f"assert {VARIABLE!r} not in os.environ\n{ECHO}"
    heard: list[tuple[Any, str]] = []
    own: list[Any] = []
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        for kind in (Forked, Online, Listening, Exited):
            cluster.on(kind, lambda event: heard.append((event, str(event.worker.state))))
        cluster.on(Listening, lambda event: event.worker.kill())
        worker = cluster.fork()
        assert worker.id == 1
        assert isinstance(worker, Worker)
        assert worker.pid
        while not (started_with := environment(worker.pid)):  # empty during execve(2)
            pass
        ticket = started_with[VARIABLE]
        for kind in (Online, Listening, Exited):
            worker.on(kind, own.append)
        status = await within(worker.wait())
    assert [(type(event), event.worker, state) for event, state in heard] == [
        (Forked, worker, "none"),
        (Online, worker, "online"),
        (Listening, worker, "listening"),
        (Exited, worker, "dead"),
    ]
    _, listening, exited = own
    assert own == [event for event, _ in heard[1:]]
    host, port = listening.address
    assert (host, listening.family, listening.kind) == ("127.0.0.1", socket.AF_INET, socket.SOCK_STREAM)
    assert listening.fd is None
    assert 1 <= port <= 65535
    assert (exited.code, exited.signal) == (status.code, status.signal)

    # A copy of the variable does not make a worker of a process that the cluster did not start.
    program = start_program(
        HEAD + f"say(everycore.is_primary, everycore.is_worker, {VARIABLE!r} in os.environ)",
        env={VARIABLE: ticket},
    )
    program.expect("True False False")
    assert program.wait() == 0


@node("test-cluster-fork-env")
async def test_cluster_fork_env(tmp_path, monkeypatch):
    """`send_nowait` returns where Node's returns true, and raises ChannelFull where that returns false."""
    monkeypatch.setenv("CLUSTER_TEST_OVERWRITE", "old")
    source = """
    async def main():
        everycore.current_worker().send_nowait(
            {"prop": os.environ["CLUSTER_TEST_PROP"], "overwrite": os.environ["CLUSTER_TEST_OVERWRITE"]}
        )
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork({"CLUSTER_TEST_PROP": "custom", "CLUSTER_TEST_OVERWRITE": "new"})
        said = await within(anext(worker.messages()))
        assert said.message == {"prop": "custom", "overwrite": "new"}
        assert await within(worker.wait()) == ExitStatus(code=0)


@node(
    "test-cluster-fork-stdio",
    adapted="`stdio` is the three streams. Another descriptor goes to the worker by `pass_fds`, under "
    "its own number, and the primary makes the pair itself.",
)
async def test_cluster_fork_stdio(tmp_path):
    """The worker leaves while the pair is still open, like Node's with its pipe unref'd."""
    source = """
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(fileno=int(os.environ["PAIR"])) as pair:
            pair.setblocking(False)
            while data := await loop.sock_recv(pair, 100):
                await loop.sock_sendall(pair, data)
    everycore.run(main())
    """
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        settings = Settings(
            exec=worker_script(tmp_path, source),
            stdio="pipe",
            pass_fds=[theirs.fileno()],
            env={"PAIR": str(theirs.fileno())},
        )
        async with Cluster(settings) as cluster:
            worker = cluster.fork()
            await loop.sock_sendall(ours, b"foobar")
            assert await within(loop.sock_recv(ours, 100)) == b"foobar"
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=0)


@node("test-cluster-invalid-message")
async def test_cluster_invalid_message(tmp_path):
    """A message that looks like one of the cluster's own is the program's, and has no effect."""
    source = """
    async def answer(message, handle):
        return message

    async def main():
        everycore.current_worker().answer(answer)
        await for_ever()
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        await diary.until(Online)
        for pretended in (
            {"cmd": "NODE_CLUSTER", "ack": -1},
            ["Acked", -1],
            ["Answer", -1, None],
            ["Granted", -1],
            ["Disconnect", 0.0],
        ):
            await within(worker.send(pretended))
        assert await within(worker.request("still there", timeout=None)) == "still there"
        worker.disconnect()
        assert await within(worker.wait()) == ExitStatus(code=0)


@node("test-cluster-listening-port")
async def test_cluster_listening_port(tmp_path, policy):
    async with Cluster(Settings(exec=worker_script(tmp_path, ECHO)), policy=policy) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        _, port = (await diary.until(Listening)).address
        assert isinstance(port, int)
        assert port > 0
        worker.kill()
        await within(worker.wait())


@node("test-cluster-message")
async def test_cluster_message(tmp_path, policy):
    source = """
    async def main():
        me = everycore.current_worker()
        received = asyncio.get_running_loop().create_future()
        me.on(everycore.Message, received.set_result)

        async def witness(reader, writer):
            me.send_nowait("message from the worker")
            message = (await received).message
            writer.write(json.dumps({"code": "received message", "echo": message}).encode() + b"\\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(witness, "127.0.0.1", 0)
        await server.serve_forever()
    everycore.run(main())
    """
    of_worker: asyncio.Queue[Message] = asyncio.Queue()
    of_cluster: asyncio.Queue[Message] = asyncio.Queue()
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        worker.on(Message, of_worker.put_nowait)
        cluster.on(Message, of_cluster.put_nowait)
        client = await Client.open((await diary.until(Listening)).address)
        worker.send_nowait("message from the primary")
        said = json.loads(await within(client.reader.readline()))
        assert said == {"code": "received message", "echo": "message from the primary"}
        for received in (of_worker, of_cluster):
            message = await within(received.get())
            assert (message.worker, message.message) == (worker, "message from the worker")
        await client.close()
        worker.kill()
        await within(worker.wait())
    assert of_worker.empty()
    assert of_cluster.empty()


@node(
    "test-cluster-worker-constructor",
    adapted="Only `fork()` makes a `Worker`; id and state cannot be given. The test looks at one "
    "before its process has sent a message.",
)
async def test_cluster_worker_constructor(loop_factory):
    """Node's takes id, state and process as options, and can be called without `new`."""
    with pytest.raises(TypeError):
        Worker()  # type: ignore[call-arg]
    with FakeWorkers(life=None) as workers:
        async with Cluster() as cluster:
            first, second = cluster.fork(), cluster.fork()
            for worker, number in ((first, 1), (second, 2)):
                assert isinstance(worker, Worker)
                assert worker.exited_voluntarily is False
                assert worker.state == "none"
                assert worker.id == number
            workers[second].online()
            await settle()
            assert (first.state, second.state) == ("none", "online")
            for worker in (first, second):
                worker.kill(signal.SIGKILL)


@node(
    "test-cluster-worker-events",
    adapted="There is no `process` that emits messages or 'error' beside the worker: "
    "`current_worker()` returns the same object at every call, and every subscriber gets an "
    "equal message.",
)
async def test_cluster_worker_events(tmp_path):
    """An error in the worker's program is an exception, not an event that could be forwarded."""
    source = """
    async def main():
        first, second = asyncio.Queue(), asyncio.Queue()
        everycore.current_worker().on(everycore.Message, first.put_nowait)
        everycore.current_worker().on(everycore.Message, second.put_nowait)
        one, other = await first.get(), await second.get()
        same = one.worker is other.worker is everycore.current_worker()
        sys.exit(2 if same and one.message == other.message == "SOME MESSAGE" else 3)
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        worker.send_nowait("SOME MESSAGE")  # it has not started yet
        assert await within(worker.wait()) == ExitStatus(code=2)


@node("test-cluster-worker-init")
async def test_cluster_worker_init(tmp_path):
    source = """
    me = everycore.current_worker()

    async def main():
        me.on(everycore.Message, lambda message: me.send_nowait(message.message == "foo"))
        await for_ever()
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        messages = worker.messages()
        worker.on(Online, lambda event: worker.send_nowait("foo"))
        assert (await within(anext(messages))).message is True
        assert worker.disconnect() is worker
        assert await within(worker.wait()) == ExitStatus(code=0)


@node("test-cluster-worker-isconnected")
async def test_cluster_worker_isconnected(tmp_path):
    source = """
    async def main():
        me = everycore.current_worker()
        seen = [me.is_connected()]
        me.on(everycore.Disconnected, lambda event: seen.append(me.is_connected()))
        me.send_nowait("ready to disconnect")
        try:
            await for_ever()
        finally:
            sys.exit(0 if seen == [True, False] else 3)
    everycore.run(main())
    """
    seen = []
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        assert worker.is_connected()
        worker.on(Disconnected, lambda event: seen.append(worker.is_connected()))
        assert (await within(anext(worker.messages()))).message == "ready to disconnect"
        assert worker.is_connected()
        worker.disconnect()
        assert await within(worker.wait()) == ExitStatus(code=0)
    assert seen == [False]


@node("test-cluster-worker-isdead")
async def test_cluster_worker_isdead(tmp_path):
    source = """
    async def main():
        everycore.current_worker().send_nowait(everycore.current_worker().is_dead())
        await for_ever()
    everycore.run(main())
    """
    seen = []
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        assert not worker.is_dead()
        worker.on(Exited, lambda event: seen.append(worker.is_dead()))
        assert (await within(anext(worker.messages()))).message is False
        assert not worker.is_dead()
        worker.kill()
        await within(worker.wait())
    assert seen == [True]
