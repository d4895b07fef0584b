"""Fake workers as a user's tests see them: through `Cluster` and `Pool` alone."""

import asyncio
import errno
import signal
import sys

import pytest

from everycore import (
    ChannelClosed,
    Cluster,
    Disconnected,
    Exited,
    ExitStatus,
    Forked,
    Message,
    Online,
    Ready,
    RequestFailed,
    RequestTimeout,
    Settings,
    State,
)
from everycore.testing import FakeWorker, FakeWorkers, settle
from tests.kit import pass_time
from tests.kit.told import LIFE, told_by


class TestByThemselves:
    async def test_they_are_ready_and_leave_when_they_are_asked(self):
        with FakeWorkers():
            async with Cluster() as cluster:
                told = told_by(cluster)
                worker = cluster.fork()
                await settle()
                assert worker.is_ready
                worker.disconnect()
                assert await worker.wait() == ExitStatus(code=0)
                assert worker.exited_voluntarily
        assert told == LIFE

    async def test_a_life_of_ones_own(self):
        async def double(worker: FakeWorker) -> None:
            async def answer(message, handle):
                return message * 2

            worker.answer(answer)
            worker.ready()
            await worker.send("hello")
            await worker.asked_to_leave()
            raise SystemExit(3)

        with FakeWorkers(double):
            async with Cluster() as cluster:
                worker = cluster.fork()
                assert (await anext(worker.messages())).message == "hello"
                assert await worker.request(21, timeout=1) == 42
                assert await worker.disconnect().wait() == ExitStatus(code=3)

    @pytest.mark.parametrize(("left", "code"), [(None, 0), (5, 5), ("a text", 1)])
    async def test_system_exit_is_the_status(self, left, code):
        async def leave(worker: FakeWorker) -> None:
            raise SystemExit(left)

        with FakeWorkers(leave):
            async with Cluster() as cluster:
                assert await cluster.fork().wait() == ExitStatus(code=code)

    async def test_one_that_is_killed_at_once_never_begins(self):
        begun: list[FakeWorker] = []

        async def begin(worker: FakeWorker) -> None:
            begun.append(worker)

        with FakeWorkers(begin):
            async with Cluster() as cluster:
                worker = cluster.fork()
                worker.kill(signal.SIGKILL)
                assert await worker.wait() == ExitStatus(signal=signal.SIGKILL)
        assert begun == []

    async def test_an_error_of_a_life_is_the_tests_own(self):
        async def fail(worker: FakeWorker) -> None:
            worker.online()
            raise AssertionError("a mistake in the test")

        with pytest.raises(AssertionError, match="a mistake in the test"):
            with FakeWorkers(fail):
                async with Cluster() as cluster:
                    assert await cluster.fork().wait() == ExitStatus(code=1)

    async def test_an_error_of_the_block_comes_before_it(self):
        async def fail(worker: FakeWorker) -> None:
            raise AssertionError("a mistake in the test")

        with pytest.raises(LookupError) as caught:
            with FakeWorkers(fail):
                async with Cluster() as cluster:
                    await cluster.fork().wait()
                    raise LookupError
        (note,) = caught.value.__notes__
        assert note == "The life of fake worker 1 has failed: AssertionError('a mistake in the test')"


class TestByTheTest:
    @pytest.fixture
    def workers(self):
        with FakeWorkers(life=None) as workers:
            yield workers

    async def test_step_by_step(self, workers):
        async with Cluster() as cluster:
            told = told_by(cluster)
            worker = cluster.fork()
            fake = workers[worker]
            await settle()
            assert (told, worker.state) == ([Forked], State.NONE)
            fake.online()
            fake.online()  # once is enough
            await settle()
            assert (told[1:], worker.state, worker.is_ready) == ([Online], State.ONLINE, False)
            fake.ready()
            await settle()
            assert (told[2:], worker.is_ready) == ([Ready], True)
            fake.exit(4)
            assert fake.status == ExitStatus(code=4)
            await settle()
            assert told[3:] == [Disconnected, Exited]
            assert (await worker.wait(), worker.exited_voluntarily) == (ExitStatus(code=4), False)

    async def test_who_it_is(self, workers):
        async with Cluster(Settings(exec="server.py", args=["-v"], cwd="/", env={"A": "1"})) as cluster:
            cluster.fork({"B": "2"})
            first, second = cluster.workers[1], cluster.fork()
            fake = workers[second]
            assert (fake.id, fake.slot, fake.generation, fake.pid) == (2, 1, 0, second.pid)
            assert (await workers.forked(), await workers.forked()) == (workers[first], fake)
            assert workers.all == [workers[first], fake]
            assert fake.argv[-2:] == ("server.py", "-v")
            assert fake.argv[0] == sys.executable
            assert fake.cwd == "/"
            assert (workers[first].env["B"], fake.env["A"], "B" in fake.env) == ("2", "1", False)
            assert (fake.env["EVERYCORE_WORKER_ID"], fake.env["EVERYCORE_SLOT"]) == ("2", "1")
            assert "_EVERYCORE_WORKER" not in fake.env  # which is internal to the primary
            assert repr(fake) == f"<FakeWorker 2 slot=1 pid={fake.pid} alive>"
            for each in workers.all:
                each.exit()

    async def test_waiting_for_the_next_fork(self, workers):
        async with Cluster() as cluster:
            waiting = asyncio.ensure_future(workers.forked())
            await settle()
            assert not waiting.done()
            worker = cluster.fork()
            assert await waiting is workers[worker]
            workers[worker].exit()

    async def test_a_worker_forked_elsewhere_has_no_fake(self, workers):
        async with Cluster() as cluster:
            workers.refuse(OSError(errno.EAGAIN, "no more processes"))
            with pytest.raises(KeyError):
                workers[cluster.fork()]
            await cluster.wait()

    async def test_a_refused_fork(self, workers):
        async with Cluster() as cluster:
            told = told_by(cluster)
            workers.refuse(OSError(errno.EAGAIN, "no more processes"))
            status = await cluster.fork().wait()
            assert status.error is not None
            assert status.error.errno == errno.EAGAIN
            assert told == [Forked, Disconnected, Exited]
            workers[cluster.fork()].exit()

    async def test_messages_and_requests_both_ways(self, workers):
        async with Cluster() as cluster:
            worker = cluster.fork()
            fake = workers[worker]

            async def answer(message, handle):
                return f"{message} for you"

            worker.answer(answer)
            await worker.send("early")
            assert await fake.request("news", timeout=1) == "news for you"
            fake.send_nowait("first")
            await fake.send("second")
            heard = worker.messages()
            assert [(await anext(heard)).message for _ in range(2)] == ["first", "second"]
            message = await anext(fake.messages())
            assert (message.message, message.worker) == ("early", fake)
            with pytest.raises(RequestFailed, match="nobody answers"):
                await worker.request("?", timeout=1)
            fake.exit()

    async def test_pickled_messages(self, workers):
        async with Cluster(Settings(serialization="pickle")) as cluster:
            worker = cluster.fork()
            await workers[worker].send({1, 2})
            assert (await anext(worker.messages())).message == {1, 2}
            workers[worker].exit()

    async def test_what_it_said_is_heard_though_it_dies_at_once(self, workers):
        async with Cluster() as cluster:
            told = told_by(cluster)
            heard: list[object] = []
            cluster.on(Message, lambda message: heard.append(message.message))
            worker = cluster.fork()
            for number in range(100):
                workers[worker].send_nowait(number)
            workers[worker].die(signal.SIGSEGV)
            assert await worker.wait() == ExitStatus(signal=signal.SIGSEGV)
            assert heard == list(range(100))
            assert told == [Forked, Online, Disconnected, Exited]

    async def test_one_that_never_answers(self, workers):
        async with Cluster() as cluster:
            worker = cluster.fork()

            async def never(message, handle):
                await asyncio.Event().wait()

            workers[worker].answer(never)
            workers[worker].online()
            with pytest.raises(RequestTimeout):
                await worker.request("?", timeout=30)
            assert asyncio.get_running_loop().time() == pytest.approx(30)
            asking = asyncio.ensure_future(worker.request("?", timeout=None))
            await settle()
            workers[worker].die()
            with pytest.raises(ChannelClosed, match="SIGKILL"):
                await asking

    async def test_one_that_does_not_leave_is_killed_when_its_grace_is_over(self, workers):
        async with Cluster(grace=30) as cluster:
            worker = cluster.fork()
            fake = workers[worker]
            fake.ready()
            await settle()
            worker.disconnect()
            assert await fake.asked_to_leave() == pytest.approx(30)
            await pass_time(30.9)
            assert fake.status is None
            assert await worker.wait() == fake.status == ExitStatus(signal=signal.SIGKILL)
            assert fake.signals == (signal.SIGKILL,)
            assert worker.exited_voluntarily

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_signal_that_asks_it_to_leave(self, workers, number):
        async with Cluster(grace=7) as cluster:
            worker = cluster.fork()
            worker.kill(number)
            assert await workers[worker].asked_to_leave() == 7
            workers[worker].exit()

    async def test_other_signals_are_noted(self, workers):
        async with Cluster() as cluster:
            worker = cluster.fork()
            worker.kill(signal.SIGUSR1)
            worker.kill(signal.SIGRTMIN + 5)
            worker.kill(0)  # asks whether it is there
            assert workers[worker].signals == (signal.SIGUSR1, signal.SIGRTMIN + 5)
            assert not worker.is_dead()
            workers[worker].exit()
            await worker.wait()
            worker.kill(signal.SIGUSR1)
            assert len(workers[worker].signals) == 2

    async def test_it_leaves_of_its_own_accord(self, workers):
        async with Cluster() as cluster:
            worker = cluster.fork()
            fake = workers[worker]
            fake.disconnect()
            await settle()
            assert (worker.state, worker.exited_voluntarily) == (State.NONE, True) or (
                worker.state is State.DRAINING
            )
            await fake.asked_to_leave()
            fake.exit(0)
            await worker.wait()
            assert worker.exited_voluntarily

    async def test_one_that_closes_its_channel_and_stays_is_killed(self, workers):
        async with Cluster() as cluster:
            told = told_by(cluster)
            worker = cluster.fork()
            fake = workers[worker]
            fake.ready()
            fake.close_channel()
            await settle()
            assert (told, worker.is_connected(), worker.is_dead()) == (LIFE[:-1], False, False)
            with pytest.raises(ChannelClosed):
                fake.ready()
            assert await worker.wait() == ExitStatus(signal=signal.SIGKILL)
            assert not worker.exited_voluntarily

    async def test_the_dead_do_nothing(self, workers):
        async with Cluster() as cluster:
            worker = cluster.fork()
            fake = workers[worker]
            fake.online()
            fake.exit()
            for act in (fake.online, fake.ready, fake.exit, fake.die, fake.close_channel, fake.disconnect):
                with pytest.raises(RuntimeError, match="has ended: exit status 0"):
                    act()
            with pytest.raises(RuntimeError, match="has ended"):
                await fake.listen()
            await worker.wait()

    async def test_standard_streams(self, workers):
        async with Cluster(Settings(stdio="pipe")) as cluster:
            worker = cluster.fork()
            fake = workers[worker]
            assert worker.stdin is not None
            assert worker.stdout is not None
            assert fake.stdin is not None
            assert fake.stdout is not None
            assert fake.stdin.read() is None
            worker.stdin.write(b"in")
            await settle()
            assert fake.stdin.read() == b"in"
            fake.stdout.write(b"out\n")
            assert await worker.stdout.readline() == b"out\n"
            fake.exit()
            assert await worker.stdout.read() == b""

    async def test_without_pipes_there_are_no_streams(self, workers):
        async with Cluster(Settings(silent=True)) as cluster:
            fake = workers[cluster.fork()]
            assert fake.stdin is None
            assert fake.stderr is not None
            fake.exit()
