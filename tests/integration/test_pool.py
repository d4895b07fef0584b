"""A pool and its real workers: kept alive, scaled, stopped, and given up."""

import asyncio
import re
import signal

import pytest

from everycore import (
    BootError,
    ChannelClosed,
    ClusterClosed,
    ConfigurationError,
    Exited,
    ExitStatus,
    Forked,
    Pool,
    Ready,
    RequestFailed,
    RequestTimeout,
    Settings,
)
from tests.integration.workers import ECHO, IDLE, Diary, program, within, worker_script
from tests.kit import turn


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


#: A worker that answers requests with its id, once it is told to; "die" kills it.
ANSWERING = """
async def main():
    me = everycore.current_worker()
    held = asyncio.Event()

    async def answer(message, handle):
        match message:
            case "hold":
                await held.wait()
            case "let go":
                held.set()
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "ask":
                return await me.request("who?", timeout=None)
        return me.id

    me.answer(answer)
    everycore.ready()
    await for_ever()

everycore.run(main())
"""


class TestFailureThatNobodyHeard:
    FAILS = "raise SystemExit(7)"

    async def test_leaving_the_block_raises_it(self, make_pool):
        with pytest.raises(BootError) as caught:
            async with make_pool(1, self.FAILS) as pool:
                await within(pool.cluster.wait())
        assert "exit status 7" in caught.value.report

    async def test_it_is_raised_once(self, make_pool):
        async with make_pool(1, self.FAILS) as pool:
            with pytest.raises(BootError):
                await within(pool.wait())

    async def test_what_the_block_raises_wins(self, make_pool):
        with pytest.raises(LookupError):
            async with make_pool(1, self.FAILS) as pool:
                await within(pool.cluster.wait())
                raise LookupError


class TestMessages:
    async def test_a_request_goes_to_the_worker_with_the_fewest_open(self, make_pool):
        async with make_pool(3, ANSWERING) as pool:
            await Diary(pool.cluster).until(Ready, count=3)
            in_turn = [await pool.request("who?", timeout=None) for _ in range(6)]
            assert sorted(in_turn[:3]) == [1, 2, 3]
            assert in_turn[3:] == in_turn[:3]
            held = [asyncio.create_task(pool.request("hold", timeout=None)) for _ in range(2)]
            await turn()
            (free,) = {await pool.request("who?", timeout=None) for _ in range(4)}
            for number in {1, 2, 3} - {free}:
                await pool.workers[number].request("let go", timeout=None)
            assert {free, *await asyncio.gather(*held)} == {1, 2, 3}

    async def test_a_request_waits_for_a_worker_that_is_ready(self, make_pool):
        async with make_pool(1, ANSWERING) as pool:
            assert await within(pool.request("who?", timeout=None)) == 1

    async def test_waiting_for_a_worker_counts(self, make_pool):
        async with make_pool(1, IDLE) as pool:
            with pytest.raises(RequestTimeout, match="none was ready"):
                await pool.request("who?", timeout=0.05)

    async def test_a_request_that_waits_when_the_pool_gives_up_fails_with_it(self, make_pool):
        async with make_pool(1, "raise SystemExit(7)") as pool:
            for _ in range(2):  # the one that waits, and one that comes later
                with pytest.raises(BootError):
                    await within(pool.request("who?", timeout=None))

    async def test_a_request_after_the_end_of_the_pool_fails(self, make_pool):
        async with make_pool(1, ANSWERING) as pool:
            await Diary(pool.cluster).until(Ready)
            pool.stop()
            await within(pool.wait())
            with pytest.raises(ClusterClosed, match="has ended"):
                await within(pool.request("who?", timeout=None))

    async def test_a_worker_that_dies_with_a_request_is_an_error_and_the_next_gets_another(self, make_pool):
        async with make_pool(2, ANSWERING) as pool:
            await Diary(pool.cluster).until(Ready, count=2)
            with pytest.raises(ChannelClosed):
                await within(pool.request("die", timeout=None))
            assert await within(pool.request("who?", timeout=None)) in (2, 1, 3)

    async def test_one_handler_answers_all_workers_those_to_come_too(self, make_pool):
        async def answer(message, handle):
            return f"{message} me"

        async with make_pool(1, ANSWERING) as pool:
            diary = Diary(pool.cluster)
            subscription = pool.answer(answer)
            with pytest.raises(RuntimeError, match="already"):
                pool.answer(answer)
            assert await within(pool.request("ask", timeout=None)) == "who? me"
            pool.workers[1].kill(signal.SIGKILL)
            await diary.until(Ready, count=2)
            assert await within(pool.request("ask", timeout=None)) == "who? me"
            subscription.cancel()
            with pytest.raises(RequestFailed, match="nobody answers"):
                await within(pool.request("ask", timeout=None))
            with pytest.raises(TypeError, match="coroutine function"):
                pool.answer(print)

    async def test_events_and_callbacks_are_the_clusters(self, make_pool):
        async with make_pool(2, ANSWERING) as pool:
            seen = []
            pool.on(Ready, lambda event: seen.append(event.worker.id))
            first: list[Ready] = []
            pool.once(Ready, first.append)
            async with pool.events(Ready) as events:
                assert {(await within(anext(events))).worker.id for _ in range(2)} == {1, 2}
            assert sorted(seen) == [1, 2]
            assert len(first) == 1
            assert await pool.broadcast("hello") == 2
            assert len(pool.snapshot().workers) == 2


async def test_it_takes_what_a_cluster_takes(make_pool):
    with pytest.raises(ConfigurationError, match="recall_after"):
        make_pool(1, recall_after=-1)
    with pytest.raises(ConfigurationError, match="orphan_grace"):
        make_pool(1, orphan_grace=-1)
    with pytest.raises(ConfigurationError, match="max_message"):
        make_pool(1, max_message=0)
