"""A pool and its real workers: kept alive, scaled, stopped, and given up."""

import asyncio
import re
import signal

import pytest

from everycore import (
    BootError,
    ClusterClosed,
    ConfigurationError,
    Exited,
    ExitStatus,
    Forked,
    Pool,
    Ready,
    Settings,
)
from tests.integration.workers import ECHO, IDLE, Diary, program, within, worker_script


@pytest.fixture
def make_pool(tmp_path):
    """A pool, not yet entered, whose workers run that source."""

    def make(count: int, source: str = ECHO, **options) -> Pool:
        settings = Settings(exec=worker_script(tmp_path, source), stdio="null")
        return Pool(count, settings=settings, **options)

    return make


def slots(pool: Pool) -> list[int]:
    return sorted(worker.slot for worker in pool.workers.values())


async def test_starts_workers_and_stops_them(make_pool):
    async with make_pool(3) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready, count=3)
        assert slots(pool) == [0, 1, 2]
        pool.stop()
        await within(pool.wait())
        assert [event.status for event in diary.all(Exited)] == [ExitStatus(code=0)] * 3
        assert not pool.workers


async def test_worker_that_ends_is_replaced_in_its_slot(make_pool):
    async with make_pool(2) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready, count=2)
        victim = pool.workers[2]
        victim.kill(signal.SIGKILL)
        replacement = (await diary.until(Ready, count=3)).worker
        assert (replacement.id, replacement.slot) == (3, victim.slot)


async def test_worker_that_leaves_by_itself_is_replaced(make_pool):
    async with make_pool(1) as pool:
        diary = Diary(pool.cluster)
        (await diary.until(Ready)).worker.disconnect()
        assert (await diary.until(Ready, count=2)).worker.id == 2


async def test_scaling(make_pool):
    async with make_pool(1) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready)
        pool.scale(3)
        await diary.until(Ready, count=3)
        assert slots(pool) == [0, 1, 2]
        assert pool.size == 3
        pool.scale(1)
        await diary.until(Exited, count=2)
        assert slots(pool) == [0]
        assert all(event.voluntary for event in diary.all(Exited))


async def test_slot_wanted_again_waits_for_the_old_worker(make_pool):
    async with make_pool(2) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready, count=2)
        pool.scale(1)
        pool.scale(2)
        replacement = await diary.until(Ready, count=3)
        [ended] = diary.all(Exited)
        [forked] = diary.all(Forked, replacement.worker)
        assert ended.worker.slot == replacement.worker.slot == 1
        assert ended.seq < forked.seq


async def test_callbacks_may_scale_while_workers_are_forked(make_pool):
    async with make_pool(1) as pool:
        diary = Diary(pool.cluster)
        pool.cluster.once(Exited, lambda _: pool.scale(2))
        (await diary.until(Ready)).worker.kill(signal.SIGKILL)
        await diary.until(Ready, count=3)
        assert slots(pool) == [0, 1]


# An application that cannot start


@pytest.mark.parametrize(
    ("source", "report"),
    [
        ("raise SystemExit(4)", r"worker \d ended before it was ready: exit status 4"),
        ("os.kill(os.getpid(), 9)", r"worker \d ended before it was ready: killed by SIGKILL"),
        ("", r"worker \d ended before it was ready: exit status 0"),
    ],
    ids=["exit", "killed", "over"],
)
async def test_gives_up_when_nobody_was_ever_ready(make_pool, source, report):
    async with make_pool(3, source) as pool:
        with pytest.raises(BootError) as caught:
            await within(pool.wait())
        assert not pool.workers
    assert re.fullmatch(report, caught.value.report)


async def test_gives_up_when_a_worker_cannot_be_started():
    async with Pool(2, settings=Settings(exec=["/no/such/program"])) as pool:
        with pytest.raises(BootError, match="worker 1") as caught:
            await within(pool.wait())
    assert "not started" in caught.value.report


async def test_boot_timeout(make_pool):
    async with make_pool(1, IDLE, boot_timeout=0.3) as pool:
        with pytest.raises(BootError) as caught:
            await within(pool.wait())
    assert caught.value.report == "worker 1 was not ready within 0.3 s, and was killed"


async def test_failure_once_somebody_was_ready_is_retried(make_pool, tmp_path):
    source = f"if os.path.exists({str(tmp_path / 'broken')!r}): sys.exit(1)\n" + program(ECHO)
    async with make_pool(1, source) as pool:
        diary = Diary(pool.cluster)
        worker = (await diary.until(Ready)).worker
        (tmp_path / "broken").touch()
        worker.kill(signal.SIGKILL)
        assert (await diary.until(Exited, count=2)).status == ExitStatus(code=1)
        (tmp_path / "broken").unlink()
        await diary.until(Ready, count=2)


# The block


async def test_leaving_the_block_stops_all_and_ends_wait(make_pool):
    async with make_pool(2) as pool:
        diary = Diary(pool.cluster)
        waiting = asyncio.create_task(pool.wait())
        await diary.until(Ready, count=2)
    assert [event.status for event in diary.all(Exited)] == [ExitStatus(code=0)] * 2
    await within(waiting)


async def test_leaving_by_an_exception_stops_all(make_pool):
    with pytest.raises(ZeroDivisionError):
        async with make_pool(2) as pool:
            diary = Diary(pool.cluster)
            await diary.until(Ready, count=2)
            raise ZeroDivisionError
    assert len(diary.all(Exited)) == 2


async def test_leaving_by_cancellation_kills_all(make_pool):
    diary: Diary

    async def hold() -> None:
        nonlocal diary
        async with make_pool(2) as pool:
            diary = Diary(pool.cluster)
            running.set()
            await pool.wait()

    running = asyncio.Event()
    task = asyncio.create_task(hold())
    await running.wait()
    await diary.until(Ready, count=2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert {event.status for event in diary.all(Exited)} == {ExitStatus(signal=signal.SIGKILL)}


async def test_disconnect_waits_for_the_last(make_pool):
    async with make_pool(2) as pool:
        await Diary(pool.cluster).until(Ready, count=2)
        await within(pool.disconnect())
        assert not pool.workers
        await within(pool.wait())


@pytest.mark.parametrize("call", [Pool.stop, lambda pool: pool.scale(1)], ids=["stop", "scale"])
async def test_outside_of_the_block(make_pool, call):
    pool = make_pool(1)
    with pytest.raises(ClusterClosed, match="async with"):
        call(pool)
    with pytest.raises(ClusterClosed):
        await pool.wait()


@pytest.mark.parametrize(
    "arguments", [{"workers": 0}, {"workers": "many"}, {"boot_timeout": 0}, {"grace": -1}]
)
def test_bad_arguments(arguments):
    with pytest.raises(ConfigurationError):
        Pool(**arguments)


async def test_scale_to_nothing_is_refused(make_pool):
    async with make_pool(1) as pool:
        with pytest.raises(ConfigurationError):
            pool.scale(0)


# Under everycore.run


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, -signal.SIGINT)])
def test_signal_stops_the_pool_and_replaces_nobody(start_program, tmp_path, number, status):
    worker = worker_script(tmp_path, ECHO)
    running = start_program(
        f"""
        import everycore

        async def main():
            async with everycore.Pool(2, settings=everycore.Settings(exec={str(worker)!r})) as pool:
                for kind in (everycore.Ready, everycore.Exited, everycore.Forked):
                    pool.cluster.on(kind, lambda it: print(type(it).__name__, it.worker.id, flush=True))
                await pool.wait()

        everycore.run(main())
        """
    )
    running.expect("Ready")
    running.expect("Ready")
    running.signal(number)
    assert running.wait() == status
    assert "3" not in running.stdout
    assert running.stdout.count("Exited") == 2
