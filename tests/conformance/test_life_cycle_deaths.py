"""Node's tests of a worker's sudden end: by an error, by signals, with the primary."""

import asyncio
import contextlib
import errno
import os
from signal import SIGKILL, SIGTERM

import pytest

from everycore import Cluster, Disconnected, Exited, ExitStatus, Listening, Message, Settings
from tests.conformance.node import node
from tests.kit import wait_gone
from tests.kit.ends import End
from tests.kit.processes import look
from tests.kit.workers import ECHO, HEAD, Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]


# An error


@node(
    "test-cluster-ipc-throw",
    adapted="An 'error' of Node's server is an exception of `start_server` here, and "
    "'uncaughtException' is the loop's exception handler.",
)
async def test_cluster_ipc_throw(tmp_path):
    """The port is the primary's own: the worker leaves, and then raises an exception that is not caught."""
    source = """
    caught = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: caught.append(context["exception"]))

        def fail(error):
            everycore.current_worker().disconnect()
            raise error

        try:
            await asyncio.start_server(lambda *_: None, "127.0.0.1", int(os.environ["PORT"]))
        except OSError as error:
            loop.call_soon(fail, error)
        try:
            await for_ever()
        finally:
            sys.exit(5 if [error.errno for error in caught] == [int(os.environ["ERRNO"])] else 3)
    everycore.run(main())
    """
    async with taken_port() as port:
        settings = Settings(exec=worker_script(tmp_path, source), env={"ERRNO": str(errno.EADDRINUSE)})
        async with Cluster(settings, policy="round_robin") as cluster:
            worker = cluster.fork({"PORT": str(port)})
            end = End(cluster, worker)
            await within(worker.wait())
    end.check(ExitStatus(code=5), voluntary=True)


@node("test-cluster-worker-disconnect-on-error")
async def test_cluster_worker_disconnect_on_error(tmp_path):
    source = """
    async def main():
        me = everycore.current_worker()
        message = await anext(me.messages())
        try:
            await asyncio.start_server(lambda *_: None, "127.0.0.1", message.message["port"])
        except OSError as error:
            me.send_nowait(error.errno)
            me.disconnect()
        await for_ever()
    everycore.run(main())
    """
    said = []
    async with (
        Cluster(Settings(exec=worker_script(tmp_path, source)), policy="shared") as cluster,
        taken_port() as port,
    ):
        worker = cluster.fork()
        end = End(cluster, worker)
        worker.on(Message, lambda message: said.append(message.message))
        worker.send_nowait({"port": port})
        await within(worker.wait())
    assert said == [errno.EADDRINUSE]
    end.check(ExitStatus(code=0), voluntary=True)


@contextlib.asynccontextmanager
async def taken_port():
    """A port of 127.0.0.1 on which this process, the primary, has a server of its own."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


# Signals


@node(
    "test-cluster-kill-infinite-loop",
    adapted="SIGTERM asks the worker to leave. A program without a handler of its own leaves by "
    "`SystemExit(0)` in the main thread, out of any loop; a program that should die of it at "
    "once sets SIG_DFL. A blocked event loop does not see the request, and the signal ends it "
    "when the grace is over.",
)
async def test_cluster_kill_infinite_loop(tmp_path):
    """Shows all three ways; Node's is the second."""
    source = """
    def endless():
        say("looping")
        while True:
            pass

    async def main():
        endless()

    match os.environ["HOW"]:
        case "asked":
            endless()
        case "default":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            endless()
        case "blocked":
            everycore.run(main())
    """
    settings = Settings(exec=worker_script(tmp_path, source), silent=True)
    async with Cluster(settings, grace=0.2) as cluster:
        for how, number, status, voluntary in (
            ("asked", SIGTERM, ExitStatus(code=0), True),
            ("default", SIGTERM, ExitStatus(signal=SIGTERM), False),
            ("blocked", SIGTERM, ExitStatus(signal=SIGTERM), False),
        ):
            worker = cluster.fork({"HOW": how})
            assert worker.stdout
            assert await within(worker.stdout.readline()) == b"looping\n"
            worker.kill(number)
            assert await within(worker.wait()) == status
            assert worker.exited_voluntarily is voluntary


@node("test-cluster-worker-kill")
async def test_cluster_worker_kill(tmp_path, policy):
    await killed(tmp_path, policy, lambda worker: os.kill(worker.pid, SIGKILL))


@node("test-cluster-worker-kill-signal")
async def test_cluster_worker_kill_signal(tmp_path, policy):
    await killed(tmp_path, policy, lambda worker: worker.kill(SIGKILL))


async def killed(folder, policy, kill):
    """SIGKILL ends a listening worker."""
    left = []
    async with Cluster(Settings(exec=worker_script(folder, ECHO)), policy=policy) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        end = End(cluster, worker)
        worker.on(Listening, lambda event: kill(worker))
        cluster.on(Exited, lambda event: left.append(dict(cluster.workers)))
        await within(worker.wait())
    end.check(ExitStatus(signal=SIGKILL), voluntary=False)
    (exited,) = diary.all(Exited)
    assert (exited.code, exited.signal, exited.worker) == (None, SIGKILL, worker)
    assert len(diary.all(Disconnected)) == 1
    assert left == [{}]


# With the primary

#: A primary that does what its first argument says once its two workers listen.
PRIMARY = (
    HEAD
    + """
async def worker():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    await server.serve_forever()

async def primary():
    async with everycore.Cluster() as cluster:
        listening = cluster.events(everycore.Listening)
        cluster.on(everycore.Forked, lambda event: say("worker", event.worker.pid))
        for _ in range(2):
            cluster.fork()
        for _ in range(2):
            await anext(listening)
        exec(sys.argv[1])

everycore.run(primary() if everycore.is_primary else worker())
"""
)


@node("test-cluster-primary-error")
def test_cluster_primary_error(start_program, policy):
    program = start_program(
        PRIMARY, "raise RuntimeError('accidental error')", env={"EVERYCORE_POLICY": policy}
    )
    pids = [int(program.expect(r"worker (\d+)")[1]) for _ in range(2)]
    assert program.wait() == 1
    assert "RuntimeError: accidental error" in program.stderr
    assert wait_gone(pids, timeout=1) == []


@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)"])
@node("test-cluster-primary-kill")
def test_cluster_primary_kill(start_program, policy, end):
    program = start_program(PRIMARY, end, env={"EVERYCORE_POLICY": policy})
    pids = [int(program.expect(r"worker (\d+)")[1]) for _ in range(2)]
    assert program.wait() == 0
    assert wait_gone(pids, timeout=1) == []


@node(
    "test-cluster-uncaught-exception",
    adapted="Python's last handler of an exception is `sys.excepthook`. When it is called, the block "
    "of the cluster has been left, so the workers are gone already.",
)
def test_cluster_uncaught_exception(start_program):
    """The cluster does not install a hook; the program's own decides how the primary ends."""
    program = start_program(
        HEAD
        + """
def hook(kind, error, trace):
    say("uncaught:", error)
    sys.exit(42)

async def primary():
    async with everycore.Cluster() as cluster:
        say("worker", cluster.fork().pid)
        raise RuntimeError("kill the primary")

if everycore.is_primary:
    sys.excepthook = hook
    everycore.run(primary())
"""
    )
    pid = int(program.expect(r"worker (\d+)")[1])
    program.expect("uncaught: kill the primary")
    assert look(pid) is None
    assert program.wait() == 42
