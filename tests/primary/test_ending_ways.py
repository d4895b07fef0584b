"""Whatever ends a cluster for good, `fork` starts no process from then on: a signal, `Pool.stop`, leaving."""

import asyncio
import signal

import pytest

from everycore import Cluster, ClusterClosed, Exited, Pool
from everycore.aio.shutdown import Shutdown, set_shutdown
from everycore.core import stopping
from everycore.core.stopping import StopAction
from everycore.testing import settle
from tests.kit import pass_time


def obey(delay: float = 0.0) -> None:
    """Obey signals as a command does: `main` is not cancelled when the last worker is gone."""
    main = asyncio.current_task()
    assert main is not None
    hooks = {StopAction.TELL: lambda _: None}
    set_shutdown(Shutdown(asyncio.get_running_loop(), main, stopping.COMMAND, hooks, delay=delay))


async def test_a_signal(polite):
    obey()
    async with Cluster() as cluster:
        cluster.fork()
        await settle()
        signal.raise_signal(signal.SIGTERM)
        await settle()
        assert cluster.snapshot().is_stopping
        assert cluster.fork().pid is None
        assert len(polite.all) == 1


async def test_a_signal_only_when_its_delay_is_over(polite):
    """Until then new connections are served: a worker that dies is replaced."""
    obey(delay=10.0)
    async with Cluster() as cluster:
        cluster.on(Exited, lambda event: event.voluntary or cluster.fork())
        cluster.fork()
        await settle()
        signal.raise_signal(signal.SIGTERM)
        await settle()
        polite.all[0].die()
        await settle()
        assert cluster.snapshot().is_stopping
        assert [worker.is_ready for worker in cluster.workers.values()] == [True]
        await pass_time(10.0)
        await settle()
        assert cluster.fork().pid is None
        assert len(polite.all) == 2


@pytest.mark.parametrize(("delay", "starts"), [(0.0, False), (10.0, True)])
async def test_a_cluster_that_is_opened_after_the_signal(workers, delay, starts):
    obey(delay)
    async with Cluster() as first:
        first.fork()
        signal.raise_signal(signal.SIGTERM)
        await settle()
        async with Cluster() as second:
            assert second.snapshot().is_stopping
            assert (second.fork().pid is not None) is starts
            for fake in workers.all[1:]:
                fake.die()
        workers.all[0].die()


async def test_a_cluster_that_is_opened_when_the_delay_was_cut_short_by_the_end_of_the_first(polite):
    obey(delay=10.0)
    async with Cluster() as first:
        first.fork()
        await settle()
        signal.raise_signal(signal.SIGTERM)
        await settle()
    async with Cluster() as second:
        assert second.fork().pid is None


async def test_a_pool_that_is_opened_after_the_signal_has_ended_at_once(workers):
    obey()
    async with Cluster() as first:
        first.fork()
        signal.raise_signal(signal.SIGTERM)
        await settle()
        async with Pool(2) as pool:
            await pool.wait()
            assert pool.snapshot().workers == ()
        workers.all[0].die()
        assert len(workers.all) == 1


async def test_a_pool_however_it_is_stopped(polite):
    async with Pool(2) as pool:
        await settle()
        pool.stop()
        assert pool.snapshot().is_stopping
        assert pool.cluster.fork().pid is None
        await pool.wait()
        assert len(polite.all) == 2


async def test_a_pool_whose_keeper_is_told_to_stop_as_by_a_terminal_that_is_gone(polite):
    async with Pool(2) as pool:
        await settle()
        pool._keeper.stop()
        assert pool.snapshot().is_stopping
        assert pool.cluster.fork().pid is None


async def test_a_signal_reaches_workers_that_a_program_has_forked_beside_its_pool(polite):
    obey()
    async with Pool(1) as pool:
        other = pool.cluster.fork()
        await settle()
        signal.raise_signal(signal.SIGTERM)
        await settle()
        assert (await other.wait()).code == 0
        assert not pool.workers


async def test_leaving_the_block(workers):
    """Its workers are asked to leave, and a callback that forks learns that it is too late."""
    async with Cluster() as cluster:
        cluster.fork()
        await settle()
        refusals = []

        def fork_again(_: Exited) -> None:
            with pytest.raises(ClusterClosed) as caught:
                cluster.fork()
            refusals.append(caught.value)

        cluster.on(Exited, fork_again)
        asyncio.get_running_loop().call_later(1.0, workers.all[0].die)
    assert len(refusals) == len(workers.all) == 1


async def test_a_disconnect_of_a_cluster_does_not_end_it(polite):
    async with Cluster() as cluster:
        cluster.fork()
        await settle()
        await cluster.disconnect()
        assert not cluster.snapshot().is_stopping
        assert cluster.fork().pid is not None
