"""One worker's life, as its primary sees it: events, states, ids, exit statuses, who may call what."""

import asyncio
import errno
import os
import signal
import socket
import sys

import pytest

import everycore
from everycore import (
    Cluster,
    ClusterClosed,
    ConfigurationError,
    Disconnected,
    Exited,
    ExitStatus,
    Forked,
    Listening,
    Message,
    Online,
    Ready,
    Settings,
    SetUp,
    State,
    WorkerEvent,
)
from tests.integration.workers import ECHO, IDLE, Diary, within, worker_script
from tests.kit import open_fds, turn

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

EXIT = """
sys.exit(int(sys.argv[1]))
"""


class TestEvents:
    async def test_one_worker_that_serves_and_leaves_emits_each_event_once_and_in_order(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            states = []
            cluster.on(WorkerEvent, lambda event: states.append(event.worker.state))
            worker = cluster.fork()
            assert str(worker.state) == "none"
            assert diary.events == []  # never from within the call
            await diary.until(Ready)
            assert worker.is_ready
            assert worker.state is State.LISTENING
            worker.disconnect()
            assert not worker.is_ready
            assert worker.state is State.DRAINING
            status = await within(worker.wait())
        assert status == ExitStatus(code=0)
        assert diary.names(worker) == ["Forked", "Online", "Listening", "Ready", "Disconnected", "Exited"]
        assert states == [
            State.NONE,
            State.ONLINE,
            State.LISTENING,
            State.LISTENING,
            State.DISCONNECTED,
            State.DEAD,
        ]
        assert worker.state is State.DEAD
        assert worker.is_dead()
        assert not worker.is_connected()
        assert worker.exited_voluntarily

    async def test_sequence_numbers_have_no_gap_and_times_do_not_go_back(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, EXIT), args=["0"])) as cluster:
            diary = Diary(cluster)
            cluster.fork()
            cluster.fork()
            await within(cluster.wait())
        assert [event.seq for event in diary.events] == list(range(1, len(diary.events) + 1))
        assert [event.at for event in diary.events] == sorted(event.at for event in diary.events)

    async def test_listening_names_the_real_port_and_ready_follows_at_once(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            listening = await diary.until(Listening)
            host, port = listening.address
            assert (host, listening.fd, listening.worker) == ("127.0.0.1", None, worker)
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"hello\n")
            assert await within(reader.readline()) == b"hello\n"
            writer.close()
            await writer.wait_closed()
            await diary.until(Ready)

    async def test_a_worker_that_dies_at_once_still_has_disconnected_before_exited(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, "os._exit(42)"))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            assert await within(worker.wait()) == ExitStatus(code=42)
        assert diary.names(worker) == ["Forked", "Online", "Disconnected", "Exited"]
        assert not worker.exited_voluntarily

    async def test_a_program_that_never_imports_everycore_is_forked_and_exits(self, tmp_path):
        async with Cluster(Settings(exec=[sys.executable, "-c", "pass"])) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            assert await within(worker.wait()) == ExitStatus(code=0)
        assert diary.names(worker) == ["Forked", "Disconnected", "Exited"]

    async def test_every_message_comes_before_disconnected(self, tmp_path):
        source = """
        async def main():
            for number in range(100):
                await everycore.current_worker().send(number)
        everycore.run(main())
        """
        seen = []
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            cluster.on(Message, lambda message: seen.append(message.message))
            cluster.on(Disconnected, lambda event: seen.append("disconnected"))
            cluster.on(Exited, lambda event: seen.append("exited"))
            await within(cluster.fork().wait())
        assert seen == [*range(100), "disconnected", "exited"]

    async def test_an_entry_leaves_workers_just_before_its_exited(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, EXIT), args=["0"])) as cluster:
            present: dict[type, bool] = {}
            cluster.on(
                WorkerEvent, lambda event: present.setdefault(type(event), event.worker.id in cluster.workers)
            )
            worker = cluster.fork()
            assert dict(cluster.workers) == {worker.id: worker}
            await within(cluster.wait())
            assert len(cluster.workers) == 0
        assert present == {Forked: True, Online: True, Disconnected: True, Exited: False}

    async def test_workers_may_be_changed_while_it_is_iterated(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            first = cluster.fork()
            for _ in cluster.workers:
                cluster.fork()
            assert sorted(cluster.workers) == [1, 2]
            assert cluster.workers[1] is first
            for worker in cluster.workers.values():
                worker.kill(signal.SIGKILL)
            await within(cluster.wait())

    async def test_callbacks_run_on_the_worker_first_and_a_failing_one_hurts_nobody(self, tmp_path, caplog):
        seen = []

        def fails(event):
            raise LookupError("on purpose")

        async with Cluster(Settings(exec=worker_script(tmp_path, EXIT), args=["3"])) as cluster:
            cluster.on(Exited, fails)
            cluster.on(Exited, lambda event: seen.append(("cluster", event.code)))
            worker = cluster.fork()
            worker.on(Exited, lambda event: seen.append(("worker", event.code)))
            worker.once(Online, lambda event: seen.append(("worker", "online")))
            await within(worker.wait())
        assert seen == [("worker", "online"), ("worker", 3), ("cluster", 3)]
        assert "fails" in caplog.text
        assert "LookupError: on purpose" in caplog.text

    async def test_a_coroutine_function_is_no_callback(self):
        async def wrong(event):
            pass

        async with Cluster() as cluster:
            with pytest.raises(TypeError, match="coroutine function"):
                cluster.on(Exited, wrong)

    async def test_events_subscribes_at_the_call_and_ends_with_the_cluster(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, EXIT), args=["0"])) as cluster:
            stream = cluster.events(Exited)
            everything = cluster.events()
            cluster.fork()
            await within(cluster.wait())
        assert [event.code async for event in stream] == [0]
        assert [type(event) async for event in everything] == [Forked, Online, Disconnected, Exited]

    async def test_wait_returns_when_every_exited_was_delivered(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, EXIT), args=["0"])) as cluster:
            diary = Diary(cluster)
            workers = [cluster.fork() for _ in range(3)]
            await within(cluster.wait())
            assert len(diary.all(Exited)) == 3
            assert all(worker.is_dead() for worker in workers)


class TestFork:
    async def test_env_is_added_overrides_and_removes(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KEPT", "kept")
        monkeypatch.setenv("CHANGED", "before")
        monkeypatch.setenv("REMOVED", "there")
        source = """
        async def main():
            names = "KEPT", "CHANGED", "REMOVED", "ADDED", "SET"
            await everycore.current_worker().send({name: os.environ.get(name) for name in names})
        everycore.run(main())
        """
        async with Cluster(
            Settings(exec=worker_script(tmp_path, source), env={"SET": "settings"})
        ) as cluster:
            worker = cluster.fork({"ADDED": "1", "CHANGED": "after", "REMOVED": None})
            message = await within(anext(worker.messages()))
        assert message.message == {
            "KEPT": "kept",
            "CHANGED": "after",
            "REMOVED": None,
            "ADDED": "1",
            "SET": "settings",
        }

    async def test_fork_env_wins_over_settings_env(self, tmp_path):
        source = """
        async def main():
            await everycore.current_worker().send(os.environ["WHO"])
        everycore.run(main())
        """
        async with Cluster(
            Settings(exec=worker_script(tmp_path, source), env={"WHO": "settings"})
        ) as cluster:
            worker = cluster.fork({"WHO": "fork"})
            assert (await within(anext(worker.messages()))).message == "fork"

    @pytest.mark.parametrize("env", [{"A": 1}, {"A=B": "x"}, {"": "x"}, {"A": "x\0y"}, ["A=1"]])
    async def test_bad_env_is_refused_at_the_call(self, tmp_path, env):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            with pytest.raises(ConfigurationError, match="env"):
                cluster.fork(env)
            assert len(cluster.workers) == 0

    async def test_ids_are_never_reused_and_slots_are(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            first, second, third = (cluster.fork() for _ in range(3))
            assert [(w.id, w.slot) for w in (first, second, third)] == [(1, 0), (2, 1), (3, 2)]
            second.kill(signal.SIGKILL)
            await within(second.wait())
            replacement, another = cluster.fork(), cluster.fork()
            assert [(w.id, w.slot) for w in (replacement, another)] == [(4, 1), (5, 3)]
            assert {w.generation for w in cluster.workers.values()} == {0}
            for worker in cluster.workers.values():
                worker.kill(signal.SIGKILL)
            await within(cluster.wait())
            assert cluster.fork().id == 6

    async def test_a_worker_knows_who_it_is(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()
            await me.send([me.id, me.slot, me.generation, me.pid, os.getpid(),
                           everycore.is_worker, everycore.is_primary])
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            said = (await within(anext(worker.messages()))).message
            assert said == [1, 0, 0, worker.pid, worker.pid, True, False]

    async def test_fork_outside_the_block_is_cluster_closed(self, tmp_path):
        cluster = Cluster(Settings(exec=worker_script(tmp_path, IDLE)))
        with pytest.raises(ClusterClosed, match="async with"):
            cluster.fork()
        async with cluster:
            pass
        with pytest.raises(ClusterClosed, match="closed"):
            cluster.fork()
        with pytest.raises(ClusterClosed):
            await cluster.__aenter__()

    async def test_fork_while_it_closes_is_cluster_closed(self, tmp_path):
        refused: list[str] = []

        def fork_again(event):
            try:
                cluster.fork()
            except ClusterClosed as error:
                refused.append(str(error))

        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            diary = Diary(cluster)
            cluster.on(Exited, fork_again)
            await diary.until(Online, cluster.fork())
        assert refused == ["the cluster is closing"]

    async def test_workers_can_be_forked_again_after_disconnect(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            diary = Diary(cluster)
            await diary.until(Online, cluster.fork())
            await within(cluster.disconnect())
            assert len(cluster.workers) == 0
            second = cluster.fork()
            await diary.until(Online, second)
            assert second.id == 2


class TestExitStatus:
    @pytest.mark.parametrize("code", [0, 1, 42, 255])
    async def test_code(self, tmp_path, code):
        async with Cluster(Settings(exec=worker_script(tmp_path, EXIT), args=[str(code)])) as cluster:
            diary = Diary(cluster)
            status = await within(cluster.fork().wait())
        assert status == ExitStatus(code=code)
        (exited,) = diary.all(Exited)
        assert (exited.code, exited.signal, exited.voluntary) == (code, None, False)

    @pytest.mark.parametrize(
        "number", [signal.SIGKILL, signal.SIGUSR1, signal.SIGRTMAX], ids=lambda s: s.name
    )
    async def test_signal(self, tmp_path, number):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await diary.until(Online, worker)
            worker.kill(number)
            status = await within(worker.wait())
        assert status == ExitStatus(signal=number)
        (exited,) = diary.all(Exited)
        assert (exited.code, exited.signal, exited.voluntary) == (None, number, False)

    async def test_a_signal_without_a_name(self, tmp_path):
        number = signal.SIGRTMIN + 5
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await diary.until(Online, worker)
            worker.kill(number)
            status = await within(worker.wait())
        assert (status.code, status.signal, status.error) == (None, number, None)
        assert str(status) == "killed by SIGRTMIN+5"

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
            worker.kill()  # nothing happens
            worker.disconnect()
            with pytest.raises(everycore.ChannelClosed):
                await worker.send("too late")
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

    async def test_a_failed_spawn_is_reported_to_who_waits_and_who_asks(self, tmp_path):
        async with Cluster(Settings(exec=[str(tmp_path / "nothing")])) as cluster:
            worker = cluster.fork()
            with pytest.raises(everycore.ChannelClosed) as caught:
                await within(worker.request("anyone?", timeout=None))
            assert caught.value.status.error is not None
            await within(cluster.wait())


class TestSetupPrimary:
    async def test_it_is_cumulative_and_each_call_emits_setup(self, tmp_path):
        source = """
        async def main():
            await everycore.current_worker().send([sys.argv[1:], os.environ.get("A"), os.getcwd()])
        everycore.run(main())
        """
        script = worker_script(tmp_path, source)
        folder = tmp_path / "folder"
        folder.mkdir()
        async with Cluster() as cluster:
            diary = Diary(cluster)
            cluster.setup_primary(exec=script)
            cluster.setup_primary(args=["x", "y"])
            cluster.setup_primary(env={"A": "1"}, cwd=folder)
            assert diary.events == []
            await turn()
            assert [event.settings.args for event in diary.all(SetUp)] == [None, ["x", "y"], ["x", "y"]]
            assert diary.all(SetUp)[-1].settings == cluster.settings
            assert diary.all(SetUp)[-1].worker is None
            first = cluster.fork()
            assert (await within(anext(first.messages()))).message == [["x", "y"], "1", str(folder)]
            cluster.setup_primary(args=[])
            second = cluster.fork()
            assert (await within(anext(second.messages()))).message == [[], "1", str(folder)]

    async def test_later_settings_do_not_touch_workers_that_run(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            cluster.setup_primary(exec=[str(tmp_path / "nothing")])
            await diary.until(Online, worker)
            assert not worker.is_dead()

    async def test_the_policy_is_fixed_by_the_first_fork(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            cluster.setup_primary(policy="round_robin")
            cluster.fork()
            cluster.setup_primary(policy="round_robin")  # no change
            with pytest.raises(ConfigurationError, match="policy"):
                cluster.setup_primary(policy="fastest")
            for worker in cluster.workers.values():
                worker.kill(signal.SIGKILL)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"args": "one two"},
            {"args": ["a\0b"]},
            {"exec": []},
            {"env": {"A": 1}},
            {"umask": 0o1000},
            {"serialization": "xml"},
            {"policy": "fastest"},
            {"policy": "shared", "umask": -1},
            {"umask": -1, "policy": "shared"},
            {"policy": "shared", "stdio": "pipes"},
        ],
        ids=str,
    )
    async def test_what_can_not_work_is_refused_and_changes_nothing(self, wrong):
        async with Cluster() as cluster:
            before = cluster.settings, cluster.policy
            with pytest.raises(ConfigurationError):
                cluster.setup_primary(**wrong)
            assert (cluster.settings, cluster.policy) == before

    async def test_a_fork_without_a_second_pair_of_sockets_leaves_no_first(self, tmp_path, monkeypatch):
        socketpair = socket.socketpair

        def one_kind_alone(family, kind):
            if kind == socket.SOCK_SEQPACKET:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return socketpair(family, kind)

        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            before = open_fds()
            with monkeypatch.context() as patch:
                patch.setattr(socket, "socketpair", one_kind_alone)
                worker = cluster.fork()
            error = (await within(worker.wait())).error
            assert error is not None
            assert error.errno == errno.EMFILE
            assert open_fds() == before

    async def test_settings_that_only_show_at_fork_are_raised_there_and_cost_nothing(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE), uid="no-such-user")) as cluster:
            with pytest.raises(ConfigurationError, match="no-such-user"):
                cluster.fork()
            assert len(cluster.workers) == 0
            cluster.setup_primary(uid=None)
            assert cluster.fork().id == 1

    async def test_umask_and_exec_argv_reach_the_worker(self, tmp_path):
        source = """
        async def main():
            mask = os.umask(0)
            await everycore.current_worker().send([mask, sys.flags.optimize])
        everycore.run(main())
        """
        settings = Settings(exec=worker_script(tmp_path, source), umask=0o027, exec_argv=["-O"])
        async with Cluster(settings) as cluster:
            assert (await within(anext(cluster.fork().messages()))).message == [0o027, 1]


class TestAsABlock:
    """`async with cluster.fork() as worker`."""

    async def test_left_normally_the_worker_finishes(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            async with cluster.fork() as worker:
                await within(Diary(cluster).until(Online, worker))
            assert worker.is_dead()
            assert await worker.wait() == ExitStatus(code=0)
            assert worker.exited_voluntarily

    async def test_an_error_kills_it_and_goes_on(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            with pytest.raises(ZeroDivisionError):
                async with cluster.fork() as worker:
                    raise ZeroDivisionError
            assert worker.is_dead()
            assert await worker.wait() == ExitStatus(signal=signal.SIGKILL)
            assert not worker.exited_voluntarily

    async def test_a_time_out_kills_it(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), cluster.fork() as worker:
                    await worker.wait()
            assert await worker.wait() == ExitStatus(signal=signal.SIGKILL)

    async def test_cancelled_while_it_finishes_it_is_killed(self, tmp_path):
        source = """
        async def main():
            await everycore.current_worker().wait_shutdown()
            await everycore.current_worker().send("asked")
            await for_ever()

        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:

            async def block():
                async with cluster.fork() as worker:
                    workers.append(worker)
                    await diary.until(Online, worker)

            workers: list[everycore.Worker] = []
            diary = Diary(cluster)
            asked = asyncio.Event()
            cluster.on(Message, lambda message: asked.set())
            task = asyncio.create_task(block())
            await within(asked.wait())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await within(task)
            assert workers[0].is_dead()
            assert await workers[0].wait() == ExitStatus(signal=signal.SIGKILL)

    async def test_one_that_is_gone_already(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, EXIT), args=["3"])) as cluster:
            async with cluster.fork() as worker:
                assert await within(worker.wait()) == ExitStatus(code=3)
            assert not worker.exited_voluntarily
