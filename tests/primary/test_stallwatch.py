"""What a pool does about a worker that shows no progress, without a process: in memory, in virtual time."""

import asyncio
import logging
import os
import signal
import socket

import pytest

from everycore import ConfigurationError, Exited, Pool, Stalled
from everycore.system.activity import Activity
from everycore.system.board import WorkerBoard
from everycore.system.descriptors import duplicate
from everycore.system.stacks import STACKS
from everycore.testing import FakeWorker, FakeWorkers, settle
from tests.kit import pass_time
from tests.kit.workers import events_of


def can_print(worker: FakeWorker) -> None:
    worker._process.heard.add(STACKS)


class Turning:
    """The loop of a fake worker, which turns until it is stopped."""

    def __init__(self, pool: Pool, worker: FakeWorker) -> None:
        ticket = worker._process.ticket
        self._board = WorkerBoard(duplicate(pool.cluster._runtime.boards.fd_of(os.geteuid())), ticket.row)
        self._interval = ticket.beat
        self._task = asyncio.create_task(self._turn())

    async def _turn(self) -> None:
        while True:
            self._board.beat()
            await pass_time(self._interval)

    def stop(self) -> None:
        self._task.cancel()
        self._board.close()


async def test_a_loop_that_stops_to_turn_is_told_dumped_aborted_and_replaced(polite, caplog):
    async with Pool(2, stall_dump=10, stall_kill=60) as pool:
        stalled, exited = events_of(pool, Stalled), events_of(pool, Exited)
        await settle()
        well, stuck = polite.all
        for worker in polite.all:
            can_print(worker)
        loops = [Turning(pool, worker) for worker in polite.all]
        await pass_time(30)
        assert stalled == []
        loops[1].stop()
        with caplog.at_level(logging.WARNING, "everycore.primary"):
            await pass_time(12)
            assert [event.worker.id for event in stalled] == [2]
            assert stalled[0].seconds == pytest.approx(10, abs=2)
            assert stuck.signals == (STACKS,)
            assert pool._keeper._stalls.stuck_for(1) is None
            assert pool._keeper._stalls.stuck_for(2) == pytest.approx(12, abs=1)
            assert "worker 2 (slot 1, pid" in caplog.text
            assert "is stuck: no progress for 1" in caplog.text
            await pass_time(50)
            assert stuck.signals == (STACKS, STACKS, signal.SIGABRT)
            assert len(stalled) == 2
            stuck.die(signal.SIGABRT)
            await pass_time(1)
        assert [event.worker.id for event in exited] == [2]
        assert "worker 2 (slot 1) ended: stuck for 6" in caplog.text
        assert sorted(worker.slot for worker in pool.workers.values()) == [0, 1]
        assert well.signals == ()
        loops[0].stop()


async def test_one_that_does_not_end_by_its_abort_is_killed(polite):
    async with Pool(1, stall_kill=5) as pool:
        await settle()
        Turning(pool, polite.all[0]).stop()
        loop = Turning(pool, polite.all[0])
        await pass_time(1)
        loop.stop()
        await pass_time(15)
        assert polite.all[0].signals[-2:] == (signal.SIGABRT, signal.SIGKILL)
        assert len(polite.all) == 2


async def test_what_cannot_print_is_told_and_not_signalled(polite, caplog):
    """SIGRTMAX-1 would end a process that has no handler for it."""
    async with Pool(1, stall_dump=5) as pool:
        await settle()
        loop = Turning(pool, polite.all[0])
        await pass_time(1)
        loop.stop()
        await pass_time(8)
        assert "so it prints no stacks" in caplog.text
        assert polite.all[0].signals == ()


async def test_one_that_is_stopped_is_told_as_such_and_killed(polite, caplog):
    async with Pool(1, stall_dump=5, stall_kill=20) as pool:
        await settle()
        first = polite.all[0]
        can_print(first)
        loop = Turning(pool, first)
        await pass_time(1)
        loop.stop()
        first._process.activity = Activity(is_stopped=True)
        await pass_time(10)
        assert "it is stopped (SIGSTOP)" in caplog.text
        assert first.signals == ()
        await pass_time(12)
        assert first.signals == (signal.SIGKILL,)


async def test_a_program_that_picks_up_nothing_is_stuck_and_one_that_is_given_nothing_is_not(caplog):
    with FakeWorkers(life=None) as workers:
        async with Pool(1, stall_dump=10) as pool:
            stalled = events_of(pool, Stalled)
            (worker,) = workers.all
            sock = await worker.listen()
            await settle()
            await pass_time(100)
            assert stalled == []
            with socket.create_connection(sock.getsockname()):
                await pass_time(15)
                assert len(stalled) == 1
            worker.die()


async def test_all_workers_start_anew_when_all_go_on(polite):
    async with Pool(1, stall_dump=10) as pool:
        stalled = events_of(pool, Stalled)
        await settle()
        loop = Turning(pool, polite.all[0])
        await pass_time(1)
        loop.stop()
        await pass_time(8)
        pool._keeper.resume()
        await pass_time(9)
        assert stalled == []
        await pass_time(3)
        assert len(stalled) == 1


async def test_one_that_leaves_has_its_own_limit(polite):
    async with Pool(1, grace=100, stall_dump=5, stall_kill=10) as pool:
        stalled = events_of(pool, Stalled)
        await settle()
        loop = Turning(pool, polite.all[0])
        await pass_time(1)
        loop.stop()
        polite.all[0]._process.on_signal = lambda _: None
        pool.drain(1)
        await pass_time(20)
        assert stalled == []


async def test_without_limits_there_is_no_timer(polite):
    async with Pool(1) as pool:
        await settle()
        assert polite.all[0]._process.ticket.beat == 0
        assert pool._keeper._stalls._deadline.due is None


@pytest.mark.parametrize("given", [0.1, -1, "10"])
@pytest.mark.parametrize("name", ["stall_dump", "stall_kill"])
def test_an_invalid_limit_is_refused(name, given):
    with pytest.raises(ConfigurationError, match=name):
        Pool(1, **{name: given})
