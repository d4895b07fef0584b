"""A cluster that `everycore.run` shuts down at a signal starts no worker, whatever is forked meanwhile."""

import asyncio
import errno

from everycore import Cluster, Exited, ExitStatus, Settings
from tests.kit import turn
from tests.kit.fake_processes import FakeProcesses
from tests.kit.workers import Diary, within


async def test_what_is_forked_meanwhile_never_starts_and_has_left_of_its_own_accord():
    """The README's program forks at every involuntary end: it must not do so for ever."""
    with FakeProcesses() as processes:
        async with Cluster(Settings(exec="program.py")) as cluster:
            diary = Diary(cluster)
            cluster.fork()
            cluster.on(Exited, lambda event: event.voluntary or cluster.fork())
            shut_down = asyncio.create_task(cluster._shut_down())
            await turn()
            late = cluster.fork()
            assert late.pid is None
            status = await within(late.wait())
            assert status.error is not None
            assert status.error.errno == errno.ECANCELED
            assert diary.names(late) == ["Forked", "Disconnected", "Exited"]
            assert diary.all(Exited, late)[0].voluntary
            assert not shut_down.done()
            processes.all[0].end(ExitStatus(code=0))
            await within(shut_down)
            assert len(processes.all) == 1


async def test_it_waits_for_no_worker_that_was_forked_meanwhile():
    """Otherwise a program that forks again at every end would never let it end."""
    with FakeProcesses() as processes:
        async with Cluster(Settings(exec="program.py")) as cluster:
            forked = []
            again = cluster.on(Exited, lambda _: forked.append(cluster.fork()))
            cluster.fork()
            shut_down = asyncio.create_task(cluster._shut_down())
            await turn()
            processes.all[0].end(ExitStatus(code=1))
            await within(shut_down)
            assert [worker.pid for worker in forked] == [None]
            again.cancel()
            assert len(processes.all) == 1


async def test_a_disconnect_by_the_program_does_not_end_it():
    """As in Node: workers can be forked afterwards."""
    with FakeProcesses() as processes:
        async with Cluster(Settings(exec="program.py")) as cluster:
            cluster.fork()
            leaving = asyncio.create_task(cluster.disconnect())
            await turn()
            processes.all[0].end(ExitStatus(code=0))
            await within(leaving)
            assert cluster.fork().pid is not None
            processes.all[1].end(ExitStatus(code=0))
