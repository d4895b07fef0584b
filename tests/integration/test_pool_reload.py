"""A pool whose workers are replaced: `Pool.reload` and `Pool.drain`, with real workers."""

import asyncio
import os
import signal

import pytest

from everycore import (
    ClusterClosed,
    ConfigurationError,
    Disconnected,
    Exited,
    Forked,
    Pool,
    Ready,
    ReloadBegan,
    ReloadEnded,
    ReloadFailed,
    ReloadSnapshot,
    Settings,
)
from everycore.core.signals import Signal
from tests.kit.workers import ECHO, IDLE, Diary, program, within, worker_script

pytestmark = pytest.mark.slow


@pytest.fixture
def make_pool(tmp_path):
    """A pool, not yet entered, whose workers run that source; a file `broken` keeps them from starting."""

    def make(count: int, source: str = ECHO, **options) -> Pool:
        text = f"if os.path.exists({str(tmp_path / 'broken')!r}): sys.exit(3)\n" + program(source)
        settings = Settings(exec=worker_script(tmp_path, text), stdio="null")
        return Pool(count, settings=settings, **options)

    return make


def seats(pool: Pool) -> set[tuple[int, int]]:
    """Slot and generation of the workers that were not asked to leave."""
    return {(it.slot, it.generation) for it in pool.workers.values() if not it.exited_voluntarily}


async def test_all_are_new_and_each_was_ready_before_the_old_one_left(make_pool):
    async with make_pool(3) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready, count=3)
        assert pool.snapshot().reload is None
        await within(pool.reload(), 30)
        assert seats(pool) == {(0, 1), (1, 1), (2, 1)}
        assert pool.snapshot().reload == ReloadSnapshot(1, "done")
        await diary.until(Exited, count=3)
        for old in diary.all(Disconnected):
            [new] = [it for it in diary.all(Ready) if it.worker.slot == old.worker.slot and it.worker.id > 3]
            assert new.seq < old.seq
            assert (old.worker.generation, new.worker.generation) == (0, 1)
        assert [event.generation for event in diary.all(ReloadBegan)] == [1]
        assert [(event.generation, event.error) for event in diary.all(ReloadEnded)] == [(1, None)]


async def test_with_a_surge_of_nothing_the_old_one_is_gone_before_the_new_one_starts(make_pool):
    async with make_pool(2, surge=0) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready, count=2)
        await within(pool.reload(), 30)
        exits, forks = diary.all(Exited), diary.all(Forked)[2:]
        assert [it.worker.slot for it in exits] == [it.worker.slot for it in forks] == [0, 1]
        assert exits[0].seq < forks[0].seq < exits[1].seq < forks[1].seq


@pytest.mark.ci_only
async def test_one_that_fails_leaves_the_others_and_says_so_until_the_next(make_pool, tmp_path):
    async with make_pool(2) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready, count=2)
        (tmp_path / "broken").touch()
        with pytest.raises(ReloadFailed) as caught:
            await within(pool.reload(), 30)
        report = "worker 3 ended before it was ready: exit status 3"
        assert (caught.value.worker, caught.value.report) == (3, report)
        assert str(caught.value) == f"the reload failed: {report}"
        assert seats(pool) == {(0, 0), (1, 0)}
        assert pool.snapshot().reload == ReloadSnapshot(1, "failed", report)
        assert [event.error for event in diary.all(ReloadEnded)] == [caught.value]
        pool.workers[1].kill(signal.SIGKILL)
        assert (await diary.until(Exited, count=3)).worker.generation == 1  # 3, 1, and what replaced 1
        assert pool.snapshot().reload == ReloadSnapshot(1, "failed", report)
        (tmp_path / "broken").unlink()
        await within(pool.reload(), 30)
        assert pool.snapshot().reload == ReloadSnapshot(2, "done")
        assert seats(pool) == {(0, 2), (1, 2)}


@pytest.mark.ci_only
async def test_one_that_is_not_ready_in_time_fails_it(tmp_path):
    source = f"if os.path.exists({str(tmp_path / 'slow')!r}):\n    signal.pause()\n" + program(ECHO)
    settings = Settings(exec=worker_script(tmp_path, source), stdio="null")
    async with Pool(1, settings=settings, boot_timeout=5) as pool:
        await Diary(pool.cluster).until(Ready)
        (tmp_path / "slow").touch()
        with pytest.raises(ReloadFailed, match="worker 2 was not ready within 5 s, and was killed"):
            await within(pool.reload(), 30)
        assert seats(pool) == {(0, 0)}


async def test_a_worker_that_cannot_even_be_started_fails_it(make_pool):
    async with make_pool(1) as pool:
        await Diary(pool.cluster).until(Ready)
        pool.cluster.setup_primary(exec=["/no/such/program"])
        with pytest.raises(ReloadFailed, match="not started"):
            await within(pool.reload())
        assert seats(pool) == {(0, 0)}


async def test_settings_that_cannot_work_fail_it(make_pool):
    async with make_pool(1) as pool:
        await Diary(pool.cluster).until(Ready)
        pool.cluster.setup_primary(pass_fds=[987])
        with pytest.raises(ReloadFailed, match="descriptor 987 is not open"):
            await within(pool.reload())
        assert seats(pool) == {(0, 0)}


@pytest.mark.ci_only
async def test_of_two_at_once_the_second_covers_all_waiting_requests(make_pool):
    async with make_pool(1) as pool:
        await Diary(pool.cluster).until(Ready)
        await within(asyncio.gather(pool.reload(), pool.reload(), pool.reload()), 30)
        assert seats(pool) == {(0, 2)}


async def test_a_waiting_caller_may_be_cancelled_and_the_reload_goes_on(make_pool):
    async with make_pool(1) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready)
        waiting = asyncio.create_task(pool.reload())
        await diary.until(ReloadBegan)
        waiting.cancel()
        await diary.until(ReloadEnded)
        assert seats(pool) == {(0, 1)}


@pytest.mark.parametrize("end", [Pool.stop, Pool.disconnect], ids=["stop", "disconnect"])
async def test_stopped_meanwhile(make_pool, end):
    async with make_pool(1) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready)
        waiting = asyncio.create_task(pool.reload())
        await diary.until(Forked)
        if (ending := end(pool)) is not None:
            await within(ending)
        with pytest.raises(ReloadFailed, match="told to stop"):
            await within(waiting)
        await within(pool.wait())
        with pytest.raises(ReloadFailed, match="told to stop"):
            await pool.reload()
    with pytest.raises(ClusterClosed):
        await pool.reload()


async def test_the_block_is_left_meanwhile(make_pool):
    async with make_pool(1) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready)
        waiting = asyncio.create_task(pool.reload())
        await diary.until(ReloadBegan)
    with pytest.raises(ReloadFailed, match="told to stop"):
        await within(waiting)


# Draining


async def test_a_drained_worker_is_replaced_at_once(make_pool):
    async with make_pool(2) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready, count=2)
        pool.drain(1)
        assert (await diary.until(Exited)).worker.id == 1
        assert (await diary.until(Ready, count=3)).worker.slot == 0
        assert seats(pool) == {(0, 0), (1, 0)}
        with pytest.raises(ConfigurationError, match="no worker 1"):
            pool.drain(1)


# What workers are told


async def test_worker_finds_its_numbers_in_its_environment(tmp_path):
    source = """
        names = ("EVERYCORE_WORKER_ID", "EVERYCORE_SLOT", "EVERYCORE_GENERATION")
        async def main():
            await everycore.current_worker().send([os.environ[name] for name in names])
            everycore.ready()
            await for_ever()
        everycore.run(main())
    """
    script = worker_script(tmp_path, source)
    settings = Settings(exec=script, env={"EVERYCORE_SLOT": "mine"})
    async with Pool(1, settings=settings) as pool:
        await Diary(pool.cluster).until(Ready)
        assert (await within(anext(pool.workers[1].messages()))).message == ["1", "0", "0"]
        await within(pool.reload(), 30)
        assert (await within(anext(pool.workers[2].messages()))).message == ["2", "0", "1"]


# Signals


async def test_signals_are_the_programs_own_unless_it_asks(make_pool):
    numbers = [signal.Signals[one.value] for one in Signal]
    before = [signal.getsignal(number) for number in numbers]
    async with make_pool(1, IDLE):
        assert [signal.getsignal(number) for number in numbers] == before


async def test_a_pool_that_asks_is_reloaded_by_hang_up(make_pool):
    async with make_pool(1, signals=True) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready)
        os.kill(os.getpid(), signal.SIGHUP)
        await diary.until(ReloadEnded)
        assert seats(pool) == {(0, 1)}
        # Leaving the test fails if a handler is left.


#: Logs to a file when it is told to, and reports that.
LOGS = """
import logging
logging.basicConfig(filename="pool.log", format="%(message)s")

async def main():
    me = everycore.current_worker()
    logging.warning("before")
    everycore.ready()
    async for _ in me.messages():
        logging.warning("after")
        await me.send("logged")

everycore.run(main())
"""


async def test_a_pool_that_asks_has_log_files_opened_anew(tmp_path):
    settings = Settings(exec=worker_script(tmp_path, LOGS), cwd=tmp_path)
    async with Pool(1, settings=settings, signals=True) as pool:
        await Diary(pool.cluster).until(Ready)
        (tmp_path / "pool.log").rename(tmp_path / "pool.log.1")
        heard = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, heard.set)
        try:
            for number in (signal.SIGUSR1, signal.SIGALRM):
                os.kill(os.getpid(), number)
            await within(heard.wait())
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGALRM)
        logged = pool.workers[1].messages()
        await pool.workers[1].send("log")
        await within(anext(logged))
        assert (tmp_path / "pool.log.1").read_text() == "before\n"
        assert (tmp_path / "pool.log").read_text() == "after\n"


@pytest.mark.parametrize("surge", [-1, True, 1.5, "1"])
def test_bad_surge(surge):
    with pytest.raises(ConfigurationError, match="surge"):
        Pool(1, surge=surge)
