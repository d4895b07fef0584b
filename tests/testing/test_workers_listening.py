"""`FakeWorkers`: workers that listen, and what its block does at the end."""

import asyncio
import errno
import signal
import socket

import pytest

from everycore import (
    ChannelClosed,
    Cluster,
    Event,
    ExitStatus,
    Forked,
    Listening,
    Online,
    Pool,
    Ready,
    Settings,
)
from everycore.testing import FakeWorkers, run, serve, settle
from tests.kit import open_fds, pass_time
from tests.kit.channel_pairs import LOOPS
from tests.kit.told import LIFE, told_by


class TestListening:
    @pytest.mark.parametrize("policy", ["round_robin", "shared"])
    async def test_it_is_given_connections(self, policy):
        with FakeWorkers(life=None) as workers:
            async with Cluster(policy=policy) as cluster:
                told = told_by(cluster)
                worker = cluster.fork()
                sock = await workers[worker].listen()
                await settle()
                assert told == [Forked, Online, Listening, Ready]
                with socket.create_connection(sock.getsockname()) as client:
                    accepted, address = await asyncio.get_running_loop().sock_accept(sock)
                    with accepted:
                        assert address == client.getsockname()
                workers[worker].exit()

    async def test_a_path_and_a_held_readiness(self, tmp_path):
        with FakeWorkers(life=None) as workers:
            async with Cluster() as cluster:
                told = told_by(cluster)
                fake = workers[cluster.fork()]
                fake.hold_ready()
                sock = await fake.listen(tmp_path / "socket")
                await settle()
                assert (told[-1], sock.getsockname()) == (Listening, str(tmp_path / "socket"))
                fake.ready()
                await settle()
                assert told[-1] is Ready
                fake.exit()

    async def test_a_refusal_is_the_workers(self):
        with socket.create_server(("127.0.0.1", 0)) as taken, FakeWorkers(life=None) as workers:
            async with Cluster() as cluster:
                fake = workers[cluster.fork()]
                with pytest.raises(OSError, match="in use") as caught:
                    await fake.listen(taken.getsockname())
                assert caught.value.errno == errno.EADDRINUSE
                fake.exit()

    async def test_its_end_comes_before_the_answer(self):
        with FakeWorkers(life=None) as workers:
            async with Cluster() as cluster:
                fake = workers[cluster.fork()]
                asking = asyncio.ensure_future(fake.listen())
                asyncio.get_running_loop().call_soon(fake.exit)
                with pytest.raises(ChannelClosed):
                    await asking


class TestTheBlock:
    async def test_a_pool_has_them_too_and_its_back_off_takes_no_time(self):
        with FakeWorkers() as workers:
            async with Pool(2) as pool:
                first, second = await workers.forked(), await workers.forked()
                await settle()
                first.die()
                third = await workers.forked()
                assert (third.slot, third.id) == (first.slot, 3)
                await settle()
                assert pool.workers[3].is_ready
            assert [each.status for each in (second, third)] == [ExitStatus(code=0)] * 2

    async def test_leaving_it_leaves_nothing(self):
        before = open_fds()
        with FakeWorkers(life=None) as workers:
            async with Cluster(grace=0.5) as cluster:
                fakes = [workers[cluster.fork()] for _ in range(3)]
                await fakes[0].listen()
                fakes[1].ready()
        assert {fake.status for fake in fakes} == {ExitStatus(signal=signal.SIGKILL)}
        assert open_fds() == before

    async def test_a_cluster_that_is_entered_outside_has_real_workers(self):
        with FakeWorkers() as workers:
            pass
        async with Cluster(Settings(exec=["/no/such/program"])) as cluster:
            assert (await cluster.fork().wait()).error is not None
        assert workers.all == []

    async def test_events_are_dated_by_the_virtual_clock(self):
        with FakeWorkers() as workers:
            async with Cluster() as cluster:
                dates: list[float] = []
                cluster.on(Event, lambda event: dates.append(event.at))
                worker = cluster.fork()
                await settle()
                await pass_time(1000)
                workers[worker].exit()
                await worker.wait()
        assert dates[-1] - dates[0] == pytest.approx(1000)

    def test_it_may_be_entered_before_the_loop(self):
        async def main() -> list[type[Event]]:
            async with Cluster() as cluster:
                told = told_by(cluster)
                cluster.fork()
                await settle()
                await cluster.disconnect()
                return told

        with FakeWorkers(serve):
            assert run(main()) == LIFE

    @pytest.mark.parametrize("factory", LOOPS, ids=lambda loop: loop.__module__.split(".")[0])
    def test_any_loop_will_do(self, factory):
        async def main() -> ExitStatus:
            async with Cluster() as cluster:
                ready = cluster.events(Ready)
                worker = cluster.fork()
                await anext(ready)
                return await worker.disconnect().wait()

        with FakeWorkers(), asyncio.Runner(loop_factory=factory) as runner:
            assert runner.run(main()) == ExitStatus(code=0)
