"""A pool's decisions, without a process: what it forks, replaces, removes and asks, and when it gives up.

With processes, each feature is tested once in `tests/integration/test_pool.py`.
"""

import asyncio
import errno
import os
import signal
from typing import Any

import pytest

from everycore import (
    BootError,
    ChannelClosed,
    ClusterClosed,
    ConfigurationError,
    Event,
    Exited,
    ExitStatus,
    Forked,
    Pool,
    Ready,
    RequestFailed,
    RequestTimeout,
)
from everycore.system import pausing
from everycore.testing import FakeWorker, FakeWorkers, VirtualTimeLoop, settle
from tests.kit import pass_time


@pytest.fixture(autouse=True)
def loop_factory():
    """Every test here runs in virtual time."""
    return VirtualTimeLoop


@pytest.fixture
def workers():
    """Workers that are ready at once, and leave when they are asked."""
    with FakeWorkers() as workers:
        yield workers


@pytest.fixture
def idle():
    """Workers that are online and do nothing."""
    with FakeWorkers(life=None) as workers:
        yield workers


def slots(pool: Pool) -> list[int]:
    return sorted(worker.slot for worker in pool.workers.values())


def heard(pool: Pool, kind: type[Event]) -> list[Any]:
    """Every event of `kind` from now on."""
    events: list[Any] = []
    pool.on(kind, events.append)
    return events


class TestReplacing:
    async def test_one_that_ends_is_replaced_in_its_slot(self, workers):
        async with Pool(2):
            await settle()
            workers.all[1].die()
            replacement = [await workers.forked() for _ in range(3)][-1]
            assert (replacement.id, replacement.slot) == (3, 1)

    async def test_one_that_leaves_by_itself_is_replaced(self, workers):
        async with Pool(1) as pool:
            exited = heard(pool, Exited)
            await settle()
            workers.all[0].disconnect()
            assert [(await workers.forked()).id for _ in range(2)] == [1, 2]
            assert [event.voluntary for event in exited] == [True]

    async def test_the_wait_doubles_and_is_short_again_after_a_good_time(self, workers):
        """0.1 s at first, give or take a fifth; 15 s at most; 0.1 s again after half a minute ready."""
        loop = asyncio.get_running_loop()
        async with Pool(1):
            await settle()
            waits = []
            for at in range(10):
                died = loop.time()
                workers.all[at].die()
                while len(workers.all) == at + 1:
                    await pass_time(0.01)
                waits.append(loop.time() - died)
                await settle()
            assert waits[0] < 0.2
            assert waits[4] > 4 * waits[0]
            assert max(waits) < 15 * 1.2
            await pass_time(31)
            died = loop.time()
            workers.all[-1].die()
            while len(workers.all) == 11:
                await pass_time(0.01)
            assert loop.time() - died < 0.2

    async def test_a_failure_once_a_worker_was_ready_is_retried(self, workers):
        async with Pool(1) as pool:
            await settle()
            workers.all[0].die()
            second = [await workers.forked() for _ in range(2)][-1]
            second.exit(1)  # before it was ready
            third = await workers.forked()
            await settle()
            assert (third.slot, pool.workers[3].is_ready) == (0, True)


class TestScaling:
    async def test_up_and_down(self, workers):
        async with Pool(1) as pool:
            exited = heard(pool, Exited)
            pool.scale(3)
            await settle()
            assert (slots(pool), pool.size) == ([0, 1, 2], 3)
            pool.scale(1)
            await settle()
            assert slots(pool) == [0]
            assert [event.voluntary for event in exited] == [True] * 2

    async def test_a_slot_wanted_again_waits_for_the_old_worker(self, idle):
        async with Pool(2) as pool:
            exited, forked = heard(pool, Exited), heard(pool, Forked)
            for worker in idle.all:
                worker.ready()
            await settle()
            pool.scale(1)
            pool.scale(2)
            await pass_time(5)
            assert len(idle.all) == 2
            idle.all[1].exit()
            replacement = [await idle.forked() for _ in range(3)][-1]
            await settle()
            assert exited[0].worker.slot == replacement.slot == 1
            assert exited[0].seq < forked[-1].seq
            idle.all[0].exit()
            replacement.exit()

    async def test_callbacks_may_scale_while_workers_are_forked(self, workers):
        async with Pool(1) as pool:
            pool.once(Exited, lambda _: pool.scale(2))
            await settle()
            workers.all[0].die()
            await pass_time(1)
            assert slots(pool) == [0, 1]
            assert all(worker.is_ready for worker in pool.workers.values())

    async def test_to_nothing_is_refused(self, workers):
        async with Pool(1) as pool:
            with pytest.raises(ConfigurationError):
                pool.scale(0)


class TestGivingUp:
    """An application that cannot start."""

    @pytest.mark.parametrize(
        ("end", "how"),
        [
            (lambda worker: worker.exit(4), "exit status 4"),
            (lambda worker: worker.die(), "killed by SIGKILL"),
            (lambda worker: worker.exit(0), "exit status 0"),
        ],
        ids=["exit", "killed", "over"],
    )
    async def test_when_no_worker_was_ever_ready(self, idle, end, how):
        async with Pool(3) as pool:
            end(idle.all[1])
            waiting = asyncio.ensure_future(pool.wait())
            for worker in (idle.all[0], idle.all[2]):
                worker.online()
                await worker.asked_to_leave()
                assert not waiting.done()
                worker.exit()
            with pytest.raises(BootError) as caught:
                await waiting
            assert not pool.workers
        assert caught.value.report == f"worker 2 ended before it was ready: {how}"
        assert len(idle.all) == 3

    async def test_when_a_worker_cannot_be_started(self, idle):
        idle.refuse(FileNotFoundError(errno.ENOENT, "no such program"))
        async with Pool(1) as pool:
            with pytest.raises(BootError, match="worker 1") as caught:
                await pool.wait()
        assert "not started" in caught.value.report

    async def test_when_none_is_ready_in_time(self, idle):
        async with Pool(1, boot_timeout=20) as pool:
            await pass_time(19)
            assert idle.all[0].status is None
            with pytest.raises(BootError) as caught:
                await pool.wait()
        assert caught.value.report == "worker 1 was not ready within 20 s, and was killed"
        assert idle.all[0].signals[-1] == signal.SIGKILL

    async def test_without_a_listener_leaving_the_block_raises_it(self, idle):
        with pytest.raises(BootError) as caught:
            async with Pool(1) as pool:
                idle.all[0].exit(7)
                await pool.cluster.wait()
        assert "exit status 7" in caught.value.report

    async def test_it_is_raised_once(self, idle):
        async with Pool(1) as pool:
            idle.all[0].exit(7)
            with pytest.raises(BootError):
                await pool.wait()

    async def test_what_the_block_raises_wins(self, idle):
        with pytest.raises(LookupError):
            async with Pool(1) as pool:
                idle.all[0].exit(7)
                await pool.cluster.wait()
                raise LookupError


class TestTheBlock:
    async def test_leaving_it_stops_all_and_ends_wait(self, workers):
        async with Pool(2) as pool:
            exited = heard(pool, Exited)
            waiting = asyncio.ensure_future(pool.wait())
            await settle()
        assert [event.status for event in exited] == [ExitStatus(code=0)] * 2
        await waiting

    async def test_leaving_by_an_exception_stops_all(self, workers):
        with pytest.raises(ZeroDivisionError):
            async with Pool(2):
                await settle()
                raise ZeroDivisionError
        assert [worker.status for worker in workers.all] == [ExitStatus(code=0)] * 2

    async def test_leaving_by_cancellation_kills_all(self, workers):
        async def hold() -> None:
            async with Pool(2) as pool:
                await pool.wait()

        task = asyncio.ensure_future(hold())
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [worker.status for worker in workers.all] == [ExitStatus(signal=signal.SIGKILL)] * 2

    async def test_stop_replaces_no_worker(self, workers):
        async with Pool(3) as pool:
            await settle()
            pool.stop()
            await pool.wait()
            assert not pool.workers
        assert [worker.status for worker in workers.all] == [ExitStatus(code=0)] * 3

    async def test_disconnect_waits_for_the_last(self, workers):
        async with Pool(2) as pool:
            await settle()
            await pool.disconnect()
            assert not pool.workers
            await pool.wait()

    @pytest.mark.parametrize("call", [Pool.stop, lambda pool: pool.scale(1)], ids=["stop", "scale"])
    async def test_outside_of_it(self, call):
        pool = Pool(1)
        with pytest.raises(ClusterClosed, match="async with"):
            call(pool)
        with pytest.raises(ClusterClosed):
            await pool.wait()

    @pytest.mark.parametrize(
        "arguments",
        [
            {"workers": 0},
            {"workers": "many"},
            {"boot_timeout": 0},
            {"grace": -1},
            {"recall_after": -1},
            {"orphan_grace": -1},
            {"max_message": 0},
        ],
        ids=str,
    )
    def test_bad_arguments(self, arguments):
        with pytest.raises(ConfigurationError, match=next(iter(arguments))):
            Pool(**arguments)

    async def test_events_and_callbacks_are_the_clusters(self, workers):
        async with Pool(2) as pool:
            ready = heard(pool, Ready)
            first: list[Ready] = []
            pool.once(Ready, first.append)
            async with pool.events(Ready) as events:
                assert {(await anext(events)).worker.id for _ in range(2)} == {1, 2}
            assert sorted(event.worker.id for event in ready) == [1, 2]
            assert len(first) == 1
            assert await pool.broadcast("hello") == 2
            assert len(pool.snapshot().workers) == 2


class TestMessages:
    @pytest.fixture
    def workers(self):
        """Workers that answer with their number when they are told to; "die" kills them."""

        async def life(worker: FakeWorker) -> None:
            held = asyncio.Event()

            async def answer(message, handle):
                match message:
                    case "hold":
                        await held.wait()
                    case "let go":
                        held.set()
                    case "die":
                        worker.die()
                    case "ask":
                        return await worker.request("who?", timeout=None)
                return worker.id

            worker.answer(answer)
            worker.ready()
            await worker.asked_to_leave()

        with FakeWorkers(life) as workers:
            yield workers

    async def test_a_request_goes_to_the_worker_with_the_fewest_open(self, workers):
        async with Pool(3) as pool:
            await settle()
            in_turn = [await pool.request("who?", timeout=None) for _ in range(6)]
            assert sorted(in_turn[:3]) == [1, 2, 3]
            assert in_turn[3:] == in_turn[:3]
            held = [asyncio.ensure_future(pool.request("hold", timeout=None)) for _ in range(2)]
            await settle()
            (free,) = {await pool.request("who?", timeout=None) for _ in range(4)}
            for number in {1, 2, 3} - {free}:
                await pool.workers[number].request("let go", timeout=None)
            assert {free, *await asyncio.gather(*held)} == {1, 2, 3}

    async def test_a_request_waits_for_a_worker_that_is_ready(self, workers):
        async with Pool(1) as pool:
            assert await pool.request("who?", timeout=None) == 1

    async def test_waiting_for_a_worker_counts(self, idle):
        async with Pool(1, boot_timeout=None) as pool:
            idle.all[0].online()
            with pytest.raises(RequestTimeout, match="none was ready"):
                await pool.request("who?", timeout=50)
            assert asyncio.get_running_loop().time() == pytest.approx(50)
            idle.all[0].exit()
            with pytest.raises(BootError):
                await pool.wait()

    async def test_a_request_that_waits_when_the_pool_gives_up_fails_with_it(self, idle):
        async with Pool(1) as pool:
            asyncio.get_running_loop().call_later(1, idle.all[0].exit, 7)
            for _ in range(2):  # the one that waits, and one that comes later
                with pytest.raises(BootError):
                    await pool.request("who?", timeout=None)

    async def test_a_request_after_the_end_of_the_pool_fails(self, workers):
        async with Pool(1) as pool:
            await settle()
            pool.stop()
            await pool.wait()
            with pytest.raises(ClusterClosed, match="has ended"):
                await pool.request("who?", timeout=None)

    async def test_a_worker_that_dies_with_a_request_is_an_error_and_the_next_gets_another(self, workers):
        async with Pool(2) as pool:
            await settle()
            with pytest.raises(ChannelClosed):
                await pool.request("die", timeout=None)
            assert await pool.request("who?", timeout=None) in (1, 2)

    async def test_one_handler_answers_all_workers_those_to_come_too(self, workers):
        async def answer(message, handle):
            return f"{message} me"

        async with Pool(1) as pool:
            subscription = pool.answer(answer)
            with pytest.raises(RuntimeError, match="already"):
                pool.answer(answer)
            assert await pool.request("ask", timeout=None) == "who? me"
            workers.all[0].die()
            await settle()
            assert await pool.request("ask", timeout=None) == "who? me"
            assert len(workers.all) == 2
            subscription.cancel()
            with pytest.raises(RequestFailed, match="nobody answers"):
                await pool.request("ask", timeout=None)
            with pytest.raises(TypeError, match="coroutine function"):
                pool.answer(print)  # type: ignore[arg-type]


class TestAllAtOnce:
    async def test_all_are_stopped_and_continued(self, workers, monkeypatch):
        seen = []
        monkeypatch.setattr(pausing, "stop", lambda: seen.append([worker.signals for worker in workers.all]))
        async with Pool(2, signals=True):
            await settle()
            await signalled(signal.SIGTSTP)
            assert seen == [[(signal.SIGSTOP,)] * 2]
            assert [worker.signals for worker in workers.all] == [(signal.SIGSTOP, signal.SIGCONT)] * 2

    async def test_usr1_goes_to_programs_that_handle_it(self, workers):
        async with Pool(2, signals=True):
            await settle()
            workers.all[1]._process.heard.add(signal.SIGUSR1)
            await signalled(signal.SIGUSR1)
            assert [worker.signals for worker in workers.all] == [(), (signal.SIGUSR1,)]


async def signalled(number):
    """Send the signal. Returns when it was handled, with what it put off to the next turn of the loop."""
    loop = asyncio.get_running_loop()
    last = loop.create_future()
    loop.add_signal_handler(signal.SIGALRM, last.set_result, None)
    for one in (number, signal.SIGALRM):
        os.kill(os.getpid(), one)
    await last
    loop.remove_signal_handler(signal.SIGALRM)
