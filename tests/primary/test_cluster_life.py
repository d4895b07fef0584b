"""One worker's life as its primary sees it, without a process: events, states, ids, statuses, blocks.

With processes, each feature is tested once in `tests/integration/test_lifecycle.py`.
"""

import asyncio
import errno
import os
import signal
import socket
from typing import Any

import pytest

import everycore
from everycore import (
    Cluster,
    ClusterClosed,
    ConfigurationError,
    Disconnected,
    Event,
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
    Worker,
    WorkerEvent,
)
from everycore.system.listeners import StreamListener
from everycore.testing import FakeWorkers, settle
from tests.kit import open_fds, turn


async def exit_with(worker: Worker, workers: FakeWorkers, code: int = 0) -> None:
    """`worker` joins its channel, and exits."""
    workers[worker].online()
    workers[worker].exit(code)
    await worker.wait()


class TestEvents:
    async def test_each_comes_once_in_order_and_finds_the_worker_in_its_state(self, workers):
        async with Cluster() as cluster:
            told: list[tuple[type[Event], State]] = []
            cluster.on(WorkerEvent, lambda event: told.append((type(event), event.worker.state)))
            worker = cluster.fork()
            fake = workers[worker]
            assert worker.state is State.NONE
            assert told == []  # never from within the call
            await fake.listen()
            await settle()
            assert (worker.is_ready, worker.state) == (True, State.LISTENING)
            worker.disconnect()
            assert (worker.is_ready, worker.state) == (False, State.DRAINING)
            await fake.asked_to_leave()
            fake.exit()
            assert await worker.wait() == ExitStatus(code=0)
        assert told == [
            (Forked, State.NONE),
            (Online, State.ONLINE),
            (Listening, State.LISTENING),
            (Ready, State.LISTENING),
            (Disconnected, State.DISCONNECTED),
            (Exited, State.DEAD),
        ]
        assert worker.is_dead()
        assert not worker.is_connected()
        assert worker.exited_voluntarily

    async def test_sequence_numbers_have_no_gap_and_times_do_not_go_back(self, workers):
        async with Cluster() as cluster:
            events: list[Event] = []
            cluster.on(Event, events.append)
            for worker in [cluster.fork() for _ in range(2)]:
                await exit_with(worker, workers)
        assert [event.seq for event in events] == list(range(1, 9))
        assert [event.at for event in events] == sorted(event.at for event in events)

    async def test_every_message_comes_before_disconnected(self, workers):
        seen: list[Any] = []
        async with Cluster() as cluster:
            cluster.on(Message, lambda message: seen.append(message.message))
            cluster.on(Disconnected, lambda event: seen.append("disconnected"))
            cluster.on(Exited, lambda event: seen.append("exited"))
            worker = cluster.fork()
            for number in range(100):
                await workers[worker].send(number)
            workers[worker].exit()
            await worker.wait()
        assert seen == [*range(100), "disconnected", "exited"]

    async def test_an_entry_leaves_workers_just_before_its_exited(self, workers):
        async with Cluster() as cluster:
            present: dict[type, bool] = {}
            cluster.on(
                WorkerEvent, lambda event: present.setdefault(type(event), event.worker.id in cluster.workers)
            )
            worker = cluster.fork()
            assert dict(cluster.workers) == {worker.id: worker}
            await exit_with(worker, workers)
            await cluster.wait()
            assert len(cluster.workers) == 0
        assert present == {Forked: True, Online: True, Disconnected: True, Exited: False}

    async def test_workers_may_be_changed_while_it_is_iterated(self, polite):
        async with Cluster() as cluster:
            first = cluster.fork()
            for _ in cluster.workers:
                cluster.fork()
            assert sorted(cluster.workers) == [1, 2]
            assert cluster.workers[1] is first

    async def test_callbacks_run_on_the_worker_first_and_a_failing_one_does_no_harm(self, workers, caplog):
        seen: list[Any] = []

        def fails(event):
            raise LookupError("on purpose")

        async with Cluster() as cluster:
            cluster.on(Exited, fails)
            cluster.on(Exited, lambda event: seen.append(("cluster", event.code)))
            worker = cluster.fork()
            worker.on(Exited, lambda event: seen.append(("worker", event.code)))
            worker.once(Online, lambda event: seen.append(("worker", "online")))
            await exit_with(worker, workers, 3)
        assert seen == [("worker", "online"), ("worker", 3), ("cluster", 3)]
        assert "fails" in caplog.text
        assert "LookupError: on purpose" in caplog.text

    async def test_a_coroutine_function_is_refused_as_a_callback(self):
        async def wrong(event):
            pass

        async with Cluster() as cluster:
            with pytest.raises(TypeError, match="coroutine function"):
                cluster.on(Exited, wrong)

    async def test_events_subscribes_at_the_call_and_ends_with_the_cluster(self, workers):
        async with Cluster() as cluster:
            stream = cluster.events(Exited)
            everything = cluster.events()
            await exit_with(cluster.fork(), workers)
        assert [event.code async for event in stream] == [0]
        assert [type(event) async for event in everything] == [Forked, Online, Disconnected, Exited]

    async def test_wait_returns_when_every_exited_was_delivered(self, polite):
        async with Cluster() as cluster:
            exited: list[Exited] = []
            cluster.on(Exited, exited.append)
            forked = [cluster.fork() for _ in range(3)]
            await settle()
            waiting = asyncio.ensure_future(cluster.wait())
            for worker in forked:
                await settle()
                assert not waiting.done()
                polite[worker].exit()
            await waiting
            assert len(exited) == 3
            assert all(worker.is_dead() for worker in forked)


class TestFork:
    async def test_env_is_added_overrides_and_removes(self, workers, monkeypatch):
        for name in ("KEPT", "CHANGED", "REMOVED"):
            monkeypatch.setenv(name, "before")
        async with Cluster(Settings(env={"SET": "settings", "WHO": "settings"})) as cluster:
            worker = cluster.fork({"ADDED": "1", "CHANGED": "after", "REMOVED": None, "WHO": "fork"})
            env = workers[worker].env
            workers[worker].exit()
        names = ("KEPT", "CHANGED", "REMOVED", "ADDED", "SET", "WHO")
        assert [env.get(name) for name in names] == ["before", "after", None, "1", "settings", "fork"]

    @pytest.mark.parametrize("env", [{"A": 1}, {"A=B": "x"}, {"": "x"}, {"A": "x\0y"}, ["A=1"]])
    async def test_bad_env_is_refused_at_the_call(self, workers, env):
        async with Cluster() as cluster:
            with pytest.raises(ConfigurationError, match="env"):
                cluster.fork(env)
            assert len(cluster.workers) == len(workers.all) == 0

    async def test_ids_are_never_reused_and_slots_are(self, polite):
        async with Cluster() as cluster:
            first, second, third = (cluster.fork() for _ in range(3))
            assert [(w.id, w.slot) for w in (first, second, third)] == [(1, 0), (2, 1), (3, 2)]
            polite[second].die()
            await second.wait()
            replacement, another = cluster.fork(), cluster.fork()
            assert [(w.id, w.slot) for w in (replacement, another)] == [(4, 1), (5, 3)]
            assert {w.generation for w in cluster.workers.values()} == {0}
            for worker in cluster.workers.values():
                polite[worker].die()
            await cluster.wait()
            assert cluster.fork().id == 6

    async def test_outside_the_block_is_cluster_closed(self, workers):
        cluster = Cluster()
        with pytest.raises(ClusterClosed, match="async with"):
            cluster.fork()
        async with cluster:
            pass
        with pytest.raises(ClusterClosed, match="closed"):
            cluster.fork()
        with pytest.raises(ClusterClosed):
            await cluster.__aenter__()
        assert workers.all == []

    async def test_while_it_closes_is_cluster_closed(self, polite):
        refused: list[str] = []

        def fork_again(event):
            try:
                cluster.fork()
            except ClusterClosed as error:
                refused.append(str(error))

        async with Cluster() as cluster:
            cluster.on(Exited, fork_again)
            cluster.fork()
        assert refused == ["the cluster is closing"]

    async def test_workers_can_be_forked_again_after_disconnect(self, polite):
        async with Cluster() as cluster:
            cluster.fork()
            await settle()
            await cluster.disconnect()
            assert len(cluster.workers) == 0
            second = cluster.fork()
            await settle()
            assert (second.id, second.is_ready) == (2, True)

    async def test_without_a_second_pair_of_sockets_it_leaves_no_first(self, workers, monkeypatch):
        socketpair = socket.socketpair

        def one_kind_alone(family, kind):
            if kind == socket.SOCK_SEQPACKET:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return socketpair(family, kind)

        async with Cluster() as cluster:
            before = open_fds()
            with monkeypatch.context() as patch:
                patch.setattr(socket, "socketpair", one_kind_alone)
                worker = cluster.fork()
            error = (await worker.wait()).error
            assert error is not None
            assert error.errno == errno.EMFILE
            assert open_fds() == before
            assert workers.all == []


class TestExit:
    @pytest.mark.parametrize("code", [0, 1, 42, 255])
    async def test_by_a_code(self, workers, code):
        async with Cluster() as cluster:
            exited: list[Exited] = []
            cluster.on(Exited, exited.append)
            worker = cluster.fork()
            workers[worker].exit(code)
            assert await worker.wait() == ExitStatus(code=code)
        assert [(e.code, e.signal, e.voluntary) for e in exited] == [(code, None, False)]

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1, signal.SIGRTMIN + 5])
    async def test_by_a_signal(self, workers, number):
        async with Cluster() as cluster:
            exited: list[Exited] = []
            cluster.on(Exited, exited.append)
            worker = cluster.fork()
            workers[worker].die(number)
            status = await worker.wait()
            assert (status.code, status.signal, status.error) == (None, number, None)
        assert [(e.code, e.signal, e.voluntary) for e in exited] == [(None, number, False)]

    async def test_a_failed_spawn_is_reported_by_wait_and_by_request(self, workers):
        async with Cluster() as cluster:
            before = open_fds()
            told: list[type[Event]] = []
            cluster.on(Event, lambda event: told.append(type(event)))
            workers.refuse(FileNotFoundError(errno.ENOENT, "no such program"))
            worker = cluster.fork()
            assert worker.pid is None
            with pytest.raises(everycore.ChannelClosed) as caught:
                await worker.request("anyone?", timeout=None)
            status = await worker.wait()
            assert isinstance(status.error, FileNotFoundError)
            assert caught.value.status is status
            assert told == [Forked, Disconnected, Exited]
            worker.kill()  # nothing happens
            worker.disconnect()
            with pytest.raises(everycore.ChannelClosed):
                await worker.send("too late")
            assert open_fds() == before

    async def test_what_waits_for_it_learns_how_it_ended(self, workers):
        async def never(message, handle):
            await asyncio.Event().wait()

        async with Cluster() as cluster:
            worker = cluster.fork()
            workers[worker].answer(never)
            workers[worker].online()
            messages = worker.messages()
            asking = asyncio.ensure_future(worker.request("?", timeout=None))
            listening = asyncio.ensure_future(anext(messages))
            await settle()
            assert [asking.done(), listening.done()] == [False, False]
            worker.kill(signal.SIGKILL)
            with pytest.raises(everycore.ChannelClosed, match="SIGKILL") as caught:
                await asking
            assert caught.value.status == ExitStatus(signal=signal.SIGKILL)
            with pytest.raises(StopAsyncIteration):
                await listening

    async def test_the_last_one_of_a_port_leaves_it_refusing_and_a_replacement_gets_it(self, workers):
        async with Cluster() as cluster:
            listening: list[Listening] = []
            cluster.on(Listening, listening.append)
            worker = cluster.fork()
            address = (await workers[worker].listen()).getsockname()
            await settle()
            socket.create_connection(address).close()
            workers[worker].die()
            await worker.wait()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            replacement = workers[cluster.fork()]
            assert (await replacement.listen(address)).getsockname() == address
            await settle()
            socket.create_connection(address).close()
            assert [event.address for event in listening] == [address] * 2
            replacement.exit()

    async def test_a_step_of_its_end_that_fails_keeps_none_of_the_others(self, workers, monkeypatch, caplog):
        def suspend(listener):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(StreamListener, "suspend", suspend)
        async with Cluster() as cluster:
            told: list[type[Event]] = []
            cluster.on(Event, lambda event: told.append(type(event)))
            worker = cluster.fork()
            await workers[worker].listen()
            await settle()
            workers[worker].die()
            assert await worker.wait() == ExitStatus(signal=signal.SIGKILL)
            assert told[-2:] == [Disconnected, Exited]
            assert not cluster.workers
            assert not cluster.snapshot().listeners[0].workers
        assert os.strerror(errno.EIO) in caplog.text


class TestSetupPrimary:
    async def test_it_is_cumulative_and_each_call_emits_setup(self, workers):
        async with Cluster() as cluster:
            events: list[SetUp] = []
            cluster.on(SetUp, events.append)
            cluster.setup_primary(exec="server.py")
            cluster.setup_primary(args=["x", "y"])
            cluster.setup_primary(env={"A": "1"}, cwd="/")
            assert events == []
            await turn()
            assert [event.settings.args for event in events] == [None, ["x", "y"], ["x", "y"]]
            assert events[-1].settings == cluster.settings
            assert events[-1].worker is None
            first = workers[cluster.fork()]
            assert (first.argv[-3:], first.env["A"], first.cwd) == (("server.py", "x", "y"), "1", "/")
            cluster.setup_primary(args=[])
            second = workers[cluster.fork()]
            assert (second.argv[-1:], second.env["A"], second.cwd) == (("server.py",), "1", "/")
            first.exit()
            second.exit()

    async def test_later_settings_do_not_touch_workers_that_run(self, polite):
        async with Cluster(Settings(exec="server.py", args=[])) as cluster:
            worker = cluster.fork()
            cluster.setup_primary(exec=["/no/such/program"])
            await settle()
            assert (worker.is_ready, polite[worker].argv[-1]) == (True, "server.py")

    async def test_the_policy_is_fixed_by_the_first_fork(self, polite):
        async with Cluster() as cluster:
            cluster.setup_primary(policy="round_robin")
            cluster.fork()
            cluster.setup_primary(policy="round_robin")  # no change
            with pytest.raises(ConfigurationError, match="policy"):
                cluster.setup_primary(policy="shared")

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

    async def test_settings_that_only_show_at_fork_are_raised_there_and_cost_nothing(self, polite):
        async with Cluster(Settings(uid="no-such-user")) as cluster:
            with pytest.raises(ConfigurationError, match="no-such-user"):
                cluster.fork()
            assert len(cluster.workers) == 0
            cluster.setup_primary(uid=None)
            assert cluster.fork().id == 1
