"""How the workers of a cluster leave, and what a block does at its end, without a process."""

import asyncio
import signal

import pytest
from msgspec.structs import replace

from everycore import (
    Cluster,
    Disconnected,
    Event,
    Exited,
    ExitStatus,
    Forked,
    Online,
    Ready,
    State,
)
from everycore.core.lifecycle import KILL_MARGIN
from everycore.primary.readiness import BOOT_GRACE
from everycore.testing import FakeWorker, settle
from tests.kit import pass_time


class TestAsABlock:
    """`async with cluster.fork() as worker`."""

    async def test_left_normally_the_worker_finishes(self, polite):
        async with Cluster() as cluster:
            async with cluster.fork() as worker:
                await settle()
            assert worker.is_dead()
            assert await worker.wait() == ExitStatus(code=0)
            assert worker.exited_voluntarily

    async def test_an_error_kills_it_and_goes_on(self, polite):
        async with Cluster() as cluster:
            with pytest.raises(ZeroDivisionError):
                async with cluster.fork() as worker:
                    raise ZeroDivisionError
            assert await worker.wait() == ExitStatus(signal=signal.SIGKILL)
            assert not worker.exited_voluntarily

    async def test_a_time_out_kills_it(self, polite):
        async with Cluster() as cluster:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60), cluster.fork() as worker:
                    await worker.wait()
            assert await worker.wait() == ExitStatus(signal=signal.SIGKILL)

    async def test_cancelled_while_it_finishes_it_is_killed(self, workers):
        async with Cluster() as cluster:

            async def block():
                async with cluster.fork() as worker:
                    workers[worker].ready()
                    await settle()

            task = asyncio.ensure_future(block())
            fake = await workers.forked()
            await fake.asked_to_leave()
            await settle()
            assert fake.status is None
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert fake.status == ExitStatus(signal=signal.SIGKILL)

    @pytest.mark.parametrize(
        ("holds", "level", "says"),
        [
            (True, "INFO", "worker 1 was still starting: killed"),
            (False, "WARNING", "worker 1 did not leave in time: killed"),
        ],
    )
    async def test_one_that_does_not_leave_is_told(self, workers, caplog, holds, level, says):
        """A worker that holds its readiness back has served no client."""
        caplog.set_level("INFO")
        async with Cluster() as cluster:
            worker = cluster.fork()
            workers[worker].online()
            if holds:
                workers[worker].hold_ready()
            await settle()
            await worker.disconnect().wait()
        assert (level, says) in [(record.levelname, record.message) for record in caplog.records]

    @pytest.mark.parametrize("has_launcher", [True, False])
    async def test_one_that_has_not_joined(self, workers, caplog, has_launcher):
        """Under `serve` and `run` it serves nobody yet. Another program may be at work all the same."""
        caplog.set_level("INFO")
        async with Cluster(grace=50) as cluster:
            cluster._runtime.terms = replace(cluster._runtime.terms, has_launcher=has_launcher)
            loop = asyncio.get_running_loop()
            worker, begun = cluster.fork(), loop.time()
            await settle()
            await worker.disconnect().wait()
            assert loop.time() - begun == pytest.approx(
                BOOT_GRACE + KILL_MARGIN if has_launcher else 50 + KILL_MARGIN
            )
        assert ("worker 1 was still starting: killed" in caplog.messages) == has_launcher

    @pytest.mark.parametrize("has_launcher", [True, False])
    async def test_one_that_has_joined_has_its_grace(self, workers, has_launcher):
        async with Cluster(grace=50) as cluster:
            cluster._runtime.terms = replace(cluster._runtime.terms, has_launcher=has_launcher)
            loop = asyncio.get_running_loop()
            worker, begun = cluster.fork(), loop.time()
            workers[worker].online()
            await settle()
            await worker.disconnect().wait()
            assert loop.time() - begun == pytest.approx(50 + KILL_MARGIN)

    async def test_one_that_is_gone_already(self, workers):
        async with Cluster() as cluster:
            async with cluster.fork() as worker:
                workers[worker].online()
                workers[worker].exit(3)
                await worker.wait()
            assert not worker.exited_voluntarily


class TestLeaving:
    """The block of the cluster, `disconnect`, and grace."""

    async def test_left_by_return_every_worker_leaves(self, polite):
        async with Cluster() as cluster:
            exited: list[Exited] = []
            cluster.on(Exited, exited.append)
            forked = [cluster.fork() for _ in range(2)]
            await settle()
        assert [await worker.wait() for worker in forked] == [ExitStatus(code=0)] * 2
        assert all(event.voluntary for event in exited)

    async def test_left_by_an_exception_workers_have_their_grace(self, workers):
        with pytest.raises(LookupError, match="on purpose"):
            async with Cluster(grace=50) as cluster:
                worker = cluster.fork()
                fake = workers[worker]
                fake.ready()
                await settle()
                asyncio.get_running_loop().call_later(49, fake.exit)
                raise LookupError("on purpose")
        assert await worker.wait() == ExitStatus(code=0)

    @pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
    async def test_left_by_cancellation_workers_are_killed_at_once(self, workers, error):
        with pytest.raises(error):
            async with Cluster(grace=1000) as cluster:
                told: list[type[Event]] = []
                cluster.on(Event, lambda event: told.append(type(event)))
                worker = cluster.fork()
                workers[worker].ready()
                await settle()
                raise error
        assert await worker.wait() == ExitStatus(signal=signal.SIGKILL)
        assert told[-2:] == [Disconnected, Exited]
        assert asyncio.get_running_loop().time() == 0

    async def test_a_cancelled_task_takes_its_cluster_with_it_and_stays_cancelled(self, workers):
        async def run_cluster() -> None:
            async with Cluster(grace=1000) as cluster:
                cluster.fork()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(run_cluster())
        fake = await workers.forked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert fake.status == ExitStatus(signal=signal.SIGKILL)

    async def test_cancelling_while_it_waits_for_grace_kills_at_once(self, workers):
        async def run_cluster() -> None:
            async with Cluster(grace=1000) as cluster:
                workers[cluster.fork()].ready()
                await settle()

        task = asyncio.ensure_future(run_cluster())
        fake = await workers.forked()
        await fake.asked_to_leave()
        await pass_time(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fake.status == ExitStatus(signal=signal.SIGKILL)
        assert asyncio.get_running_loop().time() == 10

    @pytest.mark.parametrize("joins", [True, False], ids=["joined", "never joined"])
    async def test_one_that_hears_nothing_is_killed_when_grace_is_over(self, workers, joins):
        async with Cluster(grace=30) as cluster:
            exited: list[Exited] = []
            cluster.on(Exited, exited.append)
            fake = workers[cluster.fork()]
            if joins:
                fake.online()
            await settle()
        assert fake.status == ExitStatus(signal=signal.SIGKILL)
        assert exited[0].voluntary
        assert asyncio.get_running_loop().time() == pytest.approx(31)  # and a second, its margin

    async def test_disconnect_again_is_nothing_and_gone_is_gone(self, polite):
        async with Cluster() as cluster:
            told: list[type[Event]] = []
            cluster.on(Event, lambda event: told.append(type(event)))
            worker = cluster.fork()
            await settle()
            assert not worker.exited_voluntarily
            assert worker.disconnect() is worker
            assert worker.exited_voluntarily
            assert worker.disconnect() is worker
            assert await worker.wait() == ExitStatus(code=0)
            worker.disconnect()
            await settle()
            assert told == [Forked, Online, Ready, Disconnected, Exited]

    async def test_the_moment_it_is_online(self, polite):
        async with Cluster() as cluster:
            exited: list[Exited] = []
            cluster.on(Exited, exited.append)
            cluster.on(Online, lambda event: event.worker.disconnect())
            forked = [cluster.fork() for _ in range(6)]
            assert [await worker.wait() for worker in forked] == [ExitStatus(code=0)] * 6
        assert all(event.voluntary for event in exited)

    async def test_everybody_at_once_and_again_on_each_event(self, polite):
        def again(event):
            for worker in cluster.workers.values():
                worker.disconnect()

        async with Cluster() as cluster:
            told: list[type[Event]] = []
            forked = [cluster.fork() for _ in range(4)]
            await settle()
            cluster.on(Event, lambda event: told.append(type(event)))
            cluster.on(Disconnected, again)
            cluster.on(Exited, again)
            again(None)
            await cluster.wait()
        assert [await worker.wait() for worker in forked] == [ExitStatus(code=0)] * 4
        assert (told.count(Disconnected), told.count(Exited), len(told)) == (4, 4, 8)

    async def test_the_clusters_disconnect_waits_for_all_and_is_not_its_end(self, workers):
        async with Cluster() as cluster:
            fakes = [workers[cluster.fork()] for _ in range(3)]
            for fake in fakes:
                fake.ready()
            await settle()
            leaving = asyncio.ensure_future(cluster.disconnect(timeout=10))
            for fake in fakes:
                await fake.asked_to_leave()
                assert not leaving.done()
                fake.exit()
                await settle()
            await leaving
            assert len(cluster.workers) == 0
            await cluster.disconnect()  # without workers: at once
            await cluster.wait()

    async def test_its_timeout_is_an_error_and_not_a_kill(self, workers):
        async with Cluster(grace=30) as cluster:
            worker = cluster.fork()
            workers[worker].ready()
            await settle()
            with pytest.raises(TimeoutError):
                await cluster.disconnect(timeout=20)
            assert (worker.state, workers[worker].signals) == (State.DRAINING, ())
            workers[worker].exit()
            await cluster.wait()
            assert await worker.wait() == ExitStatus(code=0)

    async def test_of_its_own_accord_it_is_voluntary_before_the_channel_closes(self, workers):
        async with Cluster() as cluster:
            voluntary: list[bool] = []
            cluster.on(Disconnected, lambda event: voluntary.append(event.worker.exited_voluntarily))
            worker = cluster.fork()
            fake: FakeWorker = workers[worker]
            fake.ready()
            fake.disconnect()
            await fake.send("on my way")
            fake.exit()
            assert await worker.wait() == ExitStatus(code=0)
            assert (await anext(worker.messages())).message == "on my way"
        assert voluntary == [True]

    async def test_a_signal_of_the_primary_does_not_ask_to_leave(self, workers):
        async with Cluster() as cluster:
            worker = cluster.fork()
            worker.kill()
            assert workers[worker].signals == (signal.SIGTERM,)
            assert not worker.exited_voluntarily
            workers[worker].exit(9)
            assert await worker.wait() == ExitStatus(code=9)
            worker.kill()  # gone: nothing happens
            assert len(workers[worker].signals) == 1
