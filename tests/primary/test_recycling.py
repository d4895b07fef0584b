"""Workers of a pool that reach a limit, without a process: in memory, in virtual time."""

import os

import pytest

from everycore import ConfigurationError, Exited, Pool, Recycled
from everycore.system.board import WorkerBoard
from everycore.system.descriptors import duplicate
from everycore.testing import FakeWorker, settle
from tests.kit import pass_time
from tests.kit.workers import events_of


def row(pool: Pool, worker: FakeWorker) -> WorkerBoard:
    return WorkerBoard(
        duplicate(pool.cluster._runtime.boards.fd_of(os.geteuid())), worker._process.ticket.row
    )


async def test_requests(polite, caplog):
    async with Pool(2, max_requests=20, max_requests_jitter=0) as pool:
        recycled, exited = events_of(pool, Recycled), events_of(pool, Exited)
        await settle()
        board = row(pool, polite.all[0])
        for _ in range(19):
            board.requested()
        await pass_time(5)
        assert recycled == []
        board.requested()
        with caplog.at_level("INFO", "everycore.primary"):
            await pass_time(2)
        board.close()
        assert [(event.worker.id, event.reason) for event in recycled] == [(1, "20 requests (max_requests)")]
        assert "worker 1 (slot 0) is replaced: 20 requests (max_requests)" in caplog.text
        assert [(event.worker.id, event.voluntary) for event in exited] == [(1, True)]
        assert sorted(worker.slot for worker in pool.workers.values()) == [0, 1]


async def test_connections_and_age_at_different_moments(polite):
    async with Pool(4, max_lifetime=1000) as pool:
        recycled = events_of(pool, Recycled)
        await settle()
        await pass_time(1110)
        assert sorted(event.worker.id for event in recycled) == [1, 2, 3, 4]
        assert all(event.reason.endswith("s (max_lifetime)") for event in recycled)
        assert len({round(event.at, 3) for event in recycled}) > 1


async def test_connections(polite):
    async with Pool(1, max_connections=10) as pool:
        recycled = events_of(pool, Recycled)
        await settle()
        pool._keeper._workers[1]._driver.account = lambda: (12, 0)  # type: ignore[method-assign]
        await pass_time(2)
        assert [event.reason for event in recycled] == ["12 connections (max_connections)"]


async def test_memory_three_times_in_a_row(polite):
    async with Pool(1, max_memory=100 * 2**20) as pool:
        recycled = events_of(pool, Recycled)
        await settle()
        polite.all[0]._process.memory = 200 * 2**20
        await pass_time(25)
        polite.all[0]._process.memory = 0
        await pass_time(10)
        polite.all[0]._process.memory = 200 * 2**20
        await pass_time(20)
        assert recycled == []
        await pass_time(10)
        assert [event.reason for event in recycled] == ["200 MiB (max_memory)"]


async def test_a_new_one_that_fails_is_told_and_the_old_one_serves_on(polite, caplog):
    async with Pool(1, max_lifetime=100) as pool:
        await settle()
        polite._life = None
        await pass_time(120)
        polite.all[1].exit(1)
        await settle()
        assert "which it was to replace, serves on" in caplog.text
        assert [worker.id for worker in pool.workers.values() if worker.is_ready] == [1]


async def test_without_limits_there_is_no_timer(polite):
    async with Pool(1) as pool:
        await settle()
        assert pool._keeper._ages._deadline.due is None


@pytest.mark.parametrize("name", ["max_requests", "max_connections", "max_lifetime", "max_memory", "give_up"])
def test_an_invalid_limit_is_refused(name):
    with pytest.raises(ConfigurationError, match=name):
        Pool(1, **{name: -1})  # type: ignore[arg-type]
