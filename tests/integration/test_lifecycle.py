"""One worker's life with a real process: each feature with a part of the kernel is tested once.

The order of events, states, ids and blocks in all their variety:
`tests/primary/test_cluster_life.py`, in memory.
"""

import asyncio
import errno
import os
import signal
import sys

import pytest

from everycore import (
    Cluster,
    Exited,
    ExitStatus,
    Listening,
    Online,
    Ready,
    Settings,
    State,
    WorkerEvent,
)
from tests.kit import open_fds
from tests.kit.workers import ECHO, IDLE, Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]


class TestLife:
    async def test_one_that_serves_and_leaves(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            states = []
            cluster.on(WorkerEvent, lambda event: states.append(event.worker.state))
            worker = cluster.fork()
            listening = await diary.until(Listening)
            host, port = listening.address
            assert (host, listening.fd, listening.worker) == ("127.0.0.1", None, worker)
            await diary.until(Ready)
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"hello\n")
            assert await within(reader.readline()) == b"hello\n"
            writer.close()
            await writer.wait_closed()
            async with worker:
                pass
            assert await worker.wait() == ExitStatus(code=0)
        assert diary.names(worker) == ["Forked", "Online", "Listening", "Ready", "Disconnected", "Exited"]
        assert states == [
            State.NONE,
            State.ONLINE,
            State.LISTENING,
            State.LISTENING,
            State.DISCONNECTED,
            State.DEAD,
        ]

    async def test_one_that_dies_at_once_has_disconnected_before_exited(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, "os._exit(255)"))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            assert await within(worker.wait()) == ExitStatus(code=255)
        assert diary.names(worker) == ["Forked", "Online", "Disconnected", "Exited"]
        assert not worker.exited_voluntarily

    async def test_one_whose_program_never_imports_everycore(self, tmp_path):
        async with Cluster(Settings(exec=[sys.executable, "-c", "pass"])) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            assert await within(worker.wait()) == ExitStatus(code=0)
        assert diary.names(worker) == ["Forked", "Disconnected", "Exited"]

    async def test_a_block_that_fails_kills_it(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            with pytest.raises(ZeroDivisionError):
                async with cluster.fork() as worker:
                    raise ZeroDivisionError
            assert worker.is_dead()
            assert await worker.wait() == ExitStatus(signal=signal.SIGKILL)

    @pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGRTMIN + 5])
    async def test_one_that_a_signal_ends(self, tmp_path, number):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await diary.until(Online, worker)
            worker.kill(number)
            status = await within(worker.wait())
        assert (status.code, status.signal, status.error) == (None, number, None)
        (exited,) = diary.all(Exited)
        assert (exited.code, exited.signal, exited.voluntary) == (None, number, False)
        assert str(status) == f"killed by {'SIGUSR1' if number == signal.SIGUSR1 else 'SIGRTMIN+5'}"


class TestWhatReachesIt:
    async def test_environment_identity_umask_and_flags(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KEPT", "kept")
        monkeypatch.setenv("CHANGED", "before")
        monkeypatch.setenv("REMOVED", "there")
        source = """
        async def main():
            me, mask = everycore.current_worker(), os.umask(0)
            names = "KEPT", "CHANGED", "REMOVED", "ADDED", "SET"
            await me.send([os.environ.get(name) for name in names])
            await me.send([me.id, me.slot, me.generation, me.pid, os.getpid(),
                           everycore.is_worker, everycore.is_primary])
            await me.send([mask, sys.flags.optimize, sys.argv[1:], os.getcwd()])
        everycore.run(main())
        """
        settings = Settings(
            exec=worker_script(tmp_path, source),
            args=["x", "y"],
            env={"SET": "settings"},
            cwd=tmp_path,
            umask=0o027,
            exec_argv=["-O"],
        )
        async with Cluster(settings) as cluster:
            worker = cluster.fork({"ADDED": "1", "CHANGED": "after", "REMOVED": None})
            messages = worker.messages()
            said = [(await within(anext(messages))).message for _ in range(3)]
        assert said == [
            ["kept", "after", None, "1", "settings"],
            [1, 0, 0, worker.pid, worker.pid, True, False],
            [0o027, 1, ["x", "y"], str(tmp_path)],
        ]


class TestThatCannotBeStarted:
    async def test_a_missing_program_is_an_exit_with_an_error(self, tmp_path):
        async with Cluster(Settings(exec=[str(tmp_path / "nothing")])) as cluster:
            await within(cluster.fork().wait())
            before = open_fds()
            diary = Diary(cluster)
            worker = cluster.fork()
            assert worker.pid is None
            status = await within(worker.wait())
            assert isinstance(status.error, FileNotFoundError)
            assert diary.names(worker) == ["Forked", "Disconnected", "Exited"]
            assert diary.all(Exited)[0].status is status
            assert open_fds() == before

    async def test_a_missing_cwd_is_an_exit_with_an_error(self, tmp_path):
        missing = tmp_path / "nowhere"
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE), cwd=missing)) as cluster:
            status = await within(cluster.fork().wait())
            assert status.error is not None
            assert status.error.errno == errno.ENOENT
            assert os.fspath(status.error.filename) == str(missing)

    async def test_a_program_that_may_not_be_executed(self, tmp_path):
        plain = tmp_path / "plain"
        plain.write_text("no program")
        async with Cluster(Settings(exec=[str(plain)])) as cluster:
            status = await within(cluster.fork().wait())
            assert isinstance(status.error, PermissionError)
