"""Node's tests of `child_process.fork` about the end of the child."""

import asyncio
from signal import SIGKILL, SIGUSR1, Signals

import pytest

from everycore import (
    Cluster,
    Disconnected,
    Exited,
    ExitStatus,
    Forked,
    Message,
    Settings,
    Worker,
)
from tests.conformance.node import node
from tests.kit import scaled
from tests.kit.workers import HEAD, IDLE, Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]


@node(
    "test-child-process-fork-abort-signal",
    adapted="Python's AbortSignal is the cancellation of a task that is within `async with "
    "cluster.fork()`. The worker gets SIGKILL, not SIGTERM; to send another signal, send it "
    "and wait before leaving the block.",
)
async def test_child_process_fork_abort_signal(tmp_path):
    """Code that waits in the block gets the CancelledError with its text once the process has ended."""
    async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
        diary = Diary(cluster)
        workers: list[Worker] = []

        async def hold(*, abort=False, signal=None):
            if abort and (me := asyncio.current_task()):
                me.cancel("the reason")  # before there is a worker
            async with cluster.fork() as worker:
                workers.append(worker)
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    if signal is not None:
                        worker.kill(signal)
                        await worker.wait()
                    raise

        ended_by: Signals
        for abort, signal, ended_by in (
            (False, None, SIGKILL),
            (True, None, SIGKILL),
            (False, SIGUSR1, SIGUSR1),
        ):
            task = asyncio.create_task(hold(abort=abort, signal=signal))
            if not abort:
                await diary.until(Forked, count=len(workers) + 1)
                task.cancel("the reason")
            with pytest.raises(asyncio.CancelledError, match="the reason"):
                await within(task)
            assert workers[-1].is_dead()
            assert await workers[-1].wait() == ExitStatus(signal=ended_by)

        # By then the worker has ended, so a cancellation comes too late.
        async with cluster.fork() as worker:
            worker.kill(SIGKILL)
            status = await within(worker.wait())
        assert status == ExitStatus(signal=SIGKILL)
        assert len(cluster.workers) == 0


@node(
    "test-child-process-fork-timeout-kill-signal",
    adapted="A time-out is asyncio.timeout() around `async with cluster.fork()`. It ends the worker "
    "by SIGKILL, not SIGTERM; to send another signal, send it and wait before leaving the "
    "block.",
)
async def test_child_process_fork_timeout_kill_signal(tmp_path):
    """The third worker ends before its time is over; the limit then has no further effect."""
    async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005), cluster.fork() as worker:
                await worker.wait()
        assert worker.is_dead()
        assert await worker.wait() == ExitStatus(signal=SIGKILL)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005), cluster.fork() as worker:
                try:
                    await worker.wait()
                except asyncio.CancelledError:
                    worker.kill(SIGUSR1)
                    await worker.wait()
                    raise
        assert await worker.wait() == ExitStatus(signal=SIGUSR1)

        cluster.setup_primary(exec=worker_script(tmp_path, "", "short.py"))
        async with asyncio.timeout(scaled(10)) as limit, cluster.fork() as worker:
            assert await worker.wait() == ExitStatus(code=0)
        assert not limit.expired()


@node(
    "test-child-process-exit",
    adapted="A worker cannot be a primary, so every second link of the chain is a program that a "
    "worker starts.",
)
def test_child_process_exit(start_program):
    """Five processes, each the child of the previous one. The last one ends at once, the others after it."""
    program = start_program(
        HEAD
        + """
async def primary(number):
    settings = everycore.Settings(args=[str(number + 1)], stdio=["null", "pipe", "null"])
    async with everycore.Cluster(settings) as cluster:
        worker = cluster.fork()
        assert worker.stdin is None and worker.stdout is not None and worker.stderr is None
        async for line in worker.stdout:
            os.write(1, line)
        say(number + 1, "ended:", await worker.wait())

async def worker(number):
    child = await asyncio.create_subprocess_exec(sys.executable, __file__, str(number + 1))
    say(number + 1, "ended: exit status", await child.wait())

number = int(sys.argv[1])
if number == 5:
    say("the last")
else:
    everycore.run(primary(number) if everycore.is_primary else worker(number))
""",
        "0",
    )
    assert program.wait() == 0
    ends = [f"{number} ended: exit status 0\n" for number in (5, 4, 3, 2, 1)]
    assert program.stdout == "the last\n" + "".join(ends)
    assert program.stderr == ""


@node(
    "test-child-process-fork-close",
    adapted="There is no 'close' event: Exited is the last one, after every message and after "
    "Disconnected. The end of a piped stream is the end of its reader.",
)
async def test_child_process_fork_close(tmp_path):
    source = """
    async def main():
        await everycore.current_worker().send("hello")
        say("printed")
        os._exit(0)

    everycore.run(main())
    """
    seen: list[object] = []
    async with Cluster(Settings(exec=worker_script(tmp_path, source), silent=True)) as cluster:
        worker = cluster.fork()
        worker.on(Message, lambda message: seen.append(message.message))
        worker.on(Disconnected, lambda event: seen.append("disconnected"))
        worker.on(Exited, lambda event: seen.append("exited"))
        assert await within(worker.wait()) == ExitStatus(code=0)
        assert worker.stdout
        assert await within(worker.stdout.read()) == b"printed\n"
    assert seen == ["hello", "disconnected", "exited"]


@node(
    "test-child-process-fork-ref",
    adapted="A channel, with or without a listener, does not keep a Python program running: its main "
    "does, by wait_shutdown(), until the primary disconnects.",
)
async def test_child_process_fork_ref(tmp_path):
    """Here the worker stays connected where Node's child stays because it listens for 'disconnect'."""
    source = """
    async def main():
        me = everycore.current_worker()
        await me.send("1")
        asyncio.get_running_loop().call_later(0.05, me.send_nowait, "2")
        await me.wait_shutdown()
        os.write(1, b"3")

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source), silent=True)) as cluster:
        worker = cluster.fork()
        messages = worker.messages()
        assert (await within(anext(messages))).message == "1"
        assert (await within(anext(messages))).message == "2"
        worker.disconnect()
        assert [message async for message in messages] == []
        assert await within(worker.wait()) == ExitStatus(code=0)
        assert worker.stdout
        assert await within(worker.stdout.read()) == b"3"


@node(
    "test-child-process-fork-ref2",
    adapted="A channel does not keep a Python program running. A stream opened after the worker's end "
    "is at its own end.",
)
async def test_child_process_fork_ref2(tmp_path):
    source = """
    async def main():
        me = everycore.current_worker()
        closed = asyncio.Event()
        me.on(everycore.Disconnected, lambda event: closed.set())
        me.disconnect()
        await me.wait_shutdown()  # so that main may go on after the channel
        await closed.wait()
        me.on(everycore.Message, lambda message: say("a message"))
        async for message in me.messages():
            say("a message")
        say("the end")

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source), silent=True)) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        await diary.until(Disconnected, worker)
        assert await within(worker.wait()) == ExitStatus(code=0)
        assert worker.exited_voluntarily
        assert worker.stdout
        assert await within(worker.stdout.read()) == b"the end\n"
