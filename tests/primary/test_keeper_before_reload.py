"""`Pool(before_reload=)`: it may change what a reload begins with, or refuse the reload."""

import logging
from typing import Any

import pytest

from everycore import ConfigurationError, Forked, Pool, ReloadFailed, Settings
from everycore.testing import FakeWorkers, VirtualTimeLoop, settle


@pytest.fixture(autouse=True)
def loop_factory():
    """Every test here runs in virtual time."""
    return VirtualTimeLoop


@pytest.fixture
def workers():
    with FakeWorkers() as workers:
        yield workers


async def test_it_is_called_before_anything_is_started(workers):
    forked: list[Any] = []
    seen: list[int] = []
    async with Pool(2, before_reload=lambda: seen.append(len(forked))) as pool:
        pool.on(Forked, forked.append)
        await settle()
        await pool.reload()
        assert (seen, len(forked)) == ([2], 4)
        await pool.reload()
        assert seen == [2, 4]


async def test_what_it_sets_up_holds_for_the_new_workers(workers):
    def change() -> None:
        pool.cluster.setup_primary(env={"X": "new"})

    async with Pool(1, settings=Settings(env={"X": "old"}), before_reload=change) as pool:
        await settle()
        await pool.reload()
        assert pool.cluster.settings.env == {"X": "new"}


async def test_it_refuses_a_reload_and_nothing_has_changed(workers, caplog):
    def refuse() -> None:
        raise ConfigurationError("--grace", "must be 3", source="everycore.toml")

    async with Pool(2, before_reload=refuse) as pool:
        await settle()
        before = set(pool.workers)
        with caplog.at_level(logging.ERROR), pytest.raises(ReloadFailed, match=r"everycore\.toml.*must be 3"):
            await pool.reload()
        await settle()
        assert set(pool.workers) == before
        assert pool.snapshot().reload is None
    assert "the reload is refused, and nothing has changed: --grace (from everycore.toml)" in caplog.text
    assert "Traceback" not in caplog.text


async def test_other_numbers_hold_for_later_workers(workers):
    async with Pool(1, surge=1, boot_timeout=5.0) as pool:
        await settle()
        pool._keeper.change_terms(grace=7.0, shutdown_timeout=1.0, boot_timeout=9.0, surge=0)
        await pool.reload()
        assert pool.cluster._runtime.terms.grace == 7.0
        assert pool.cluster._runtime.terms.shutdown_timeout == 1.0
        assert (pool._supervisor.boot_timeout, pool._supervisor.rollout.surge) == (9.0, 0)


async def test_another_number_holds_from_the_reload_on_and_starts_no_worker_twice(workers):
    def change() -> None:
        pool._keeper.change_terms(grace=1.0, shutdown_timeout=1.0, boot_timeout=9.0, surge=1, workers=3)

    forked: list[Any] = []
    async with Pool(1, before_reload=change) as pool:
        await settle()
        pool.on(Forked, forked.append)
        await pool.reload()
        assert pool.size == 3
        assert [event.worker.generation for event in forked] == [1, 1, 1]
