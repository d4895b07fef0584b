"""Node's tests of a forked child's streams: what they may be, and that the channel is not one of them."""

import os
import re
from typing import Any

import pytest

from everycore import Cluster, ConfigurationError, ExitStatus, Settings
from tests.conformance.node import node
from tests.kit.workers import HEAD, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: Writes to both streams, and answers one message.
CHATTER = """
os.write(1, b"to stdout")
os.write(2, b"to stderr")

async def main():
    me = everycore.current_worker()
    message = await anext(me.messages())
    await me.send({"foo": message.message})

everycore.run(main())
"""


@node(
    "test-child-process-fork-stdio",
    adapted="stdio is for the three standard streams alone, and a longer list is refused. The channel "
    "always exists and is not listed. A further pipe is a descriptor in pass_fds, with the "
    "number that it has in the primary.",
)
async def test_child_process_fork_stdio(tmp_path):
    source = """
    os.write(1, b"this should be ignored")
    os.write(2, b"this should not be ignored")

    async def main():
        with open(int(sys.argv[1]), "rb") as pipe:
            data = await asyncio.to_thread(pipe.read)
        await everycore.current_worker().send(data)
        await for_ever()

    everycore.run(main())
    """
    reading, writing = os.pipe()
    with open(reading, "rb") as theirs, open(writing, "wb") as mine:  # noqa: ASYNC230 - pipes
        script = worker_script(tmp_path, source)
        async with Cluster(Settings(exec=script, args=[str(reading)])) as cluster:
            with pytest.raises(ConfigurationError, match="stdio"):
                cluster.setup_primary(stdio=["pipe"] * 5)
                cluster.fork()
            cluster.setup_primary(stdio=["inherit", "null", "pipe"], pass_fds=[reading])
            worker = cluster.fork()
            theirs.close()
            assert worker.stdout is None
            assert worker.stderr
            mine.write(b"data to send via pipe")
            mine.close()  # the worker does not have the other end of it, so it reaches its end
            assert (await within(anext(worker.messages()))).message == b"data to send via pipe"
            worker.disconnect()
            assert await within(worker.stderr.read()) == b"this should not be ignored"
            assert await within(worker.wait()) == ExitStatus(code=0)


@node(
    "test-child-process-fork-stdio-string-variant",
    adapted="'ignore' is called 'null'. A wrong word is a ConfigurationError (also a ValueError).",
)
@pytest.mark.parametrize("stdio", ["pipe", "inherit", "null"])
async def test_child_process_fork_stdio_string_variant(tmp_path, capfd, stdio):
    script = worker_script(tmp_path, CHATTER)
    async with Cluster(Settings(exec=script)) as cluster:
        with pytest.raises(ConfigurationError, match="stdio"):
            cluster.setup_primary(stdio="33")
            cluster.fork()
        assert len(cluster.workers) == 0
        cluster.setup_primary(stdio=stdio)
        worker = cluster.fork()
        messages = worker.messages()
        await worker.send({"hello": "world"})
        assert (await within(anext(messages))).message == {"foo": {"hello": "world"}}
        assert await within(worker.wait()) == ExitStatus(code=0)
        if stdio == "pipe":
            assert worker.stdin
            assert worker.stdout
            assert worker.stderr
            assert await within(worker.stdout.read()) == b"to stdout"
            assert await within(worker.stderr.read()) == b"to stderr"
        else:
            assert (worker.stdin, worker.stdout, worker.stderr) == (None, None, None)
    inherited = ("to stdout", "to stderr") if stdio == "inherit" else ("", "")
    assert tuple(capfd.readouterr()) == inherited


@node("test-child-process-silent")
def test_child_process_silent(start_program):
    """A silent worker's output does not appear in the primary's, and its messages arrive all the same."""
    program = start_program(
        HEAD
        + """
async def primary():
    async with everycore.Cluster(everycore.Settings(silent=True)) as cluster:
        worker = cluster.fork()
        messages = worker.messages()
        await worker.send("to the worker")
        say([(await anext(messages)).message for _ in range(2)])
        worker.kill()
        await worker.wait()
        say(await worker.stdout.read(), await worker.stderr.read())

async def worker():
    me = everycore.current_worker()
    os.write(1, b"stdout message")
    os.write(2, b"stderr message")
    await me.send("from the worker")
    async for message in me.messages():
        await me.send(["got", message.message])

everycore.run(primary() if everycore.is_primary else worker())
"""
    )
    assert program.wait() == 0
    heard = "['from the worker', ['got', 'to the worker']]\n"
    assert program.stdout == f"{heard}b'stdout message' b'stderr message'\n"
    assert program.stderr == ""


@node(
    "test-child-process-validate-stdio",
    adapted="One value for all three streams, or a sequence of three. A number is a descriptor, so "
    "one that is not open is reported when the worker starts. There are no synchronous "
    "streams, and the channel is never listed.",
)
async def test_child_process_validate_stdio(tmp_path):
    source = """
    async def main():
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
        await everycore.current_worker().send(links)

    everycore.run(main())
    """
    wrong: Any
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        for wrong in ("foo", "ipc", [], ["pipe", "pipe"], ["ipc"] * 3, ["pipe"] * 4, 1.5, True, object()):
            with pytest.raises(ConfigurationError, match="stdio"):
                cluster.setup_primary(stdio=wrong)
                cluster.fork()
        assert len(cluster.workers) == 0

        cluster.setup_primary(stdio=600)
        status = await within(cluster.fork().wait())
        assert status.error is not None
        assert os.strerror(9) in str(status.error)

        names = [str(tmp_path / name) for name in ("in", "out", "err")]
        files = [open(name, "w+b") for name in names]  # noqa: ASYNC230, SIM115 - closed below
        cluster.setup_primary(stdio=files)
        by_file = cluster.fork()
        cluster.setup_primary(stdio=[file.fileno() for file in files])
        by_number = cluster.fork()
        for file in files:
            file.close()
        for worker in (by_file, by_number):
            assert (await within(anext(worker.messages()))).message == names


#: A primary without the streams whose numbers are its argument: the next descriptors that it opens get these
#: numbers.
WITHOUT = (
    HEAD
    + """
closed = [int(number) for number in sys.argv[1]]
if everycore.is_primary and "STARTED" in os.environ:
    sys.exit("a worker that does not know it")

async def primary():
    settings = everycore.Settings(stdio=sys.argv[2], env={"STARTED": "1"})
    if sys.argv[3] == "before":
        for number in closed:
            os.close(number)
    async with everycore.Cluster(settings) as cluster:
        if sys.argv[3] == "later":
            for number in closed:
                os.close(number)
        worker = cluster.fork()
        messages = worker.messages()
        await worker.send("hello")
        os.write(2, f"heard {(await anext(messages)).message}\\n".encode())
        os.write(2, f"worker: {await worker.wait()}\\n".encode())

async def worker():
    me = everycore.current_worker()
    message = await anext(me.messages())
    await me.send([message.message] + [os.readlink(f"/proc/self/fd/{number}") for number in closed])

everycore.run(primary() if everycore.is_primary else worker())
"""
)


@node(
    "test-child-process-stdin-ipc",
    "test-child-process-stdout-ipc",
    adapted="The channel never takes the place of a standard stream, not even by chance: in a primary "
    "that has closed its own, the descriptors that it opens next get their numbers.",
)
@pytest.mark.parametrize(
    ("stdio", "closed", "when"),
    [
        ("null", "0", "before"),
        ("null", "0", "later"),
        ("null", "1", "later"),
        ("null", "01", "later"),
        ("inherit", "0", "before"),
        ("inherit", "0", "later"),
        ("inherit", "1", "later"),
        ("inherit", "01", "later"),
    ],
)
def test_child_process_stdin_ipc(start_program, closed, when, stdio):
    program = start_program(WITHOUT, closed, stdio, when)
    streams = ["/dev/null"] * len(closed)
    program.expect(re.escape(f"heard {['hello', *streams]}"), stream="stderr")
    program.expect("worker: exit status 0", stream="stderr")
    assert program.wait() == 0
