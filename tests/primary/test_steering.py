"""The operations of a service on its control socket, with workers played by a test."""

import asyncio
import contextlib
import errno
import os
import signal

import pytest

from everycore import ConfigurationError, ControlError, Pool, Ready, Recycled, Settings, Stalled
from everycore.core import control
from everycore.core.control import ControlEvent
from everycore.listening import request_for
from everycore.system.stacks import STACKS, TASKS
from everycore.testing import settle
from tests.kit import pass_time, turn


class Asked:
    """An open pool, asked as its control socket asks it."""

    def __init__(self, pool):
        self.pool = pool
        self.desk = pool._control._server._desk
        self.told: list[ControlEvent] = []

    def ask(self, request):
        return asyncio.ensure_future(self.desk.answer(request, self.told.append))

    async def status(self):
        return await self.desk.answer(control.AskStatus(v=1), self.told.append)

    async def refuses(self, request, kind="failed"):
        with pytest.raises(ControlError) as caught:
            await self.desk.answer(request, self.told.append)
        assert caught.value.kind == kind
        return caught.value.text


@contextlib.asynccontextmanager
async def asked(tmp_path, count=2, **rest):
    async with Pool(count, control=tmp_path / "control.sock", **rest) as pool:
        await settle()
        yield Asked(pool)


# What it says


async def test_a_service_that_starts_and_runs(workers, tmp_path):
    async with asked(tmp_path) as it:
        assert (await it.status()).state == "starting"
        workers.all[0].ready()
        await workers.all[1].listen()
        await pass_time(5.0)
        status = await it.status()
        assert (status.state, status.size, status.kind, status.pid) == ("running", 2, "program", os.getpid())
        assert status.uptime == pytest.approx(5.0, abs=0.5)
        one, other = status.workers
        assert (one.id, one.slot, one.is_ready, one.state, one.rss) == (1, 0, True, "online", None)
        assert (other.id, other.state, other.share) == (2, "listening", 0.0)
        assert other.age == pytest.approx(5.0, abs=0.5)
        assert [(one.policy, one.waiting) for one in status.listeners] == [("round_robin", 0)]
        assert not any(worker.is_full for worker in status.workers)
        for listener in it.pool.cluster._runtime.switchboard._book:
            listener.distribution.dispatcher.fill(2)  # as if it had said so
        assert [worker.is_full for worker in (await it.status()).workers] == [False, True]
        for fake in workers.all:
            fake.die()
        await pass_time(0.01)
        slots = (await it.status()).slots
        assert [(slot.workers, slot.restarts, slot.last_end) for slot in slots] == [
            ((), 1, "killed by SIGKILL")
        ] * 2
        it.pool.stop()
        assert (await it.status()).state == "stopping"


async def test_the_last_reload_and_its_fate(polite, tmp_path):
    async with asked(tmp_path) as it:
        assert (await it.status()).reload is None
        await it.ask(control.OrderReload(v=1))
        await settle()
        status = await it.status()
        assert (status.generation, status.reload.state) == (1, "done")
        assert [worker.generation for worker in status.workers] == [1, 1]


async def test_events_are_remembered_and_followed(polite, tmp_path):
    async with asked(tmp_path, settings=Settings(env={"SECRET": "x"})) as it:
        it.pool.cluster.setup_primary(env={"SECRET": "hidden"})
        await settle()
        found = (await it.ask(control.AskEvents(v=1))).events
        assert [event.event for event in found if event.worker == 1] == ["forked", "online", "ready"]
        assert "hidden" not in repr(found)
        following = it.ask(control.AskEvents(v=1, follow=True))
        await turn()
        assert it.told == list(found)
        it.desk.follow(it.told.append)
        polite.all[0].die()
        await settle()
        exited = next(event for event in it.told if event.event == "exited")
        assert (exited.worker, exited.slot, exited.voluntary, exited.text) == (
            1,
            0,
            False,
            "killed by SIGKILL",
        )
        assert not following.done()
    assert (await following).events == ()


async def test_a_reload_that_failed_says_why_in_an_event(workers, tmp_path):
    async with asked(tmp_path, 1) as it:
        workers.all[0].ready()
        await settle()
        it.desk.follow(it.told.append)
        reload = it.ask(control.OrderReload(v=1, follow=True))
        (await workers.forked(), await workers.forked())[1].exit(1)
        with pytest.raises(ControlError, match="worker 2 ended before it was ready: exit status 1") as caught:
            await reload
        assert caught.value.kind == "failed"
        ended = it.told[-1] if it.told[-1].event == "reload_ended" else it.told[-2]
        assert (ended.event, ended.generation, ended.text) == ("reload_ended", 1, caught.value.text)
        assert (await it.status()).reload.reason == caught.value.text
        assert (await it.status()).slots[0].restarts == 1


async def test_what_befalls_a_worker_is_told_with_its_reason(polite, tmp_path):
    async with asked(tmp_path) as it:
        log, worker = it.pool.cluster._log, it.pool.workers[2]
        log.emit_about(worker, Stalled, seconds=10.04)
        log.emit_about(worker, Recycled, reason="it has had 1000 requests")
        stalled, recycled = (await it.ask(control.AskEvents(v=1))).events[-2:]
        assert (stalled.event, stalled.worker, stalled.text) == ("stalled", 2, "10.0 s")
        assert (recycled.event, recycled.text) == ("recycled", "it has had 1000 requests")


async def test_a_slot_that_has_failed_says_so(polite, tmp_path):
    async with asked(tmp_path, give_up=2) as it:
        for _ in range(2):
            worker = next(worker for worker in it.pool.workers.values() if worker.slot == 1)
            polite[worker].die()
            await pass_time(1.0)
        slots = (await it.status()).slots
        assert [(slot.is_failed, slot.restarts) for slot in slots] == [(False, 0), (True, 2)]


async def test_a_path_that_is_not_valid_text_is_reported(workers, tmp_path):
    async with asked(tmp_path, 1) as it:
        await workers.all[0].listen(os.fsdecode(bytes(tmp_path) + b"/\xff.sock"))
        await settle()
        found = (await it.ask(control.AskEvents(v=1))).events
        assert any("\\udcff.sock" in (event.text or "") for event in found)
        control.reply_line(found)
        control.reply_line(await it.status())


# What it does


async def test_a_reload_that_is_refused(polite, tmp_path):
    def refuse():
        raise ConfigurationError("--grace", "must be 3", source="everycore.toml")

    async with asked(tmp_path, before_reload=refuse) as it:
        assert "must be 3" in await it.refuses(control.OrderReload(v=1))


async def test_each_of_two_reloads_has_its_own_generation(polite, tmp_path):
    async with asked(tmp_path) as it:
        first = it.ask(control.OrderReload(v=1))
        await turn()
        second = it.ask(control.OrderReload(v=1))
        results = await asyncio.gather(first, second)
        assert [result.generation for result in results] == [1, 2]


async def test_a_client_that_goes_takes_nothing_back(polite, tmp_path):
    async with asked(tmp_path) as it:
        reload = it.ask(control.OrderReload(v=1))
        await turn()
        reload.cancel()
        await settle()
        assert (await it.status()).generation == 1
        assert [worker.generation for worker in (await it.status()).workers] == [1, 1]


@pytest.mark.parametrize(
    ("request_", "size"),
    [
        (control.OrderScale(v=1, to=4), 4),
        (control.OrderScale(v=1, by=-1), 1),
        (control.OrderScale(v=1, by=0), 2),
    ],
)
async def test_scaled_once_all_are_ready_and_those_too_many_are_gone(polite, tmp_path, request_, size):
    async with asked(tmp_path) as it:
        result = await it.ask(request_)
        assert (result.before, result.size) == (2, size)
        status = await it.status()
        assert [worker.is_ready for worker in status.workers] == [True] * size


async def test_scaling_waits_for_the_new_one(workers, tmp_path):
    async with asked(tmp_path, 1) as it:
        workers.all[0].ready()
        scaling = it.ask(control.OrderScale(v=1, by=1))
        await settle()
        assert not scaling.done()
        workers.all[1].ready()
        assert (await scaling).size == 2


async def test_scaling_down_waits_for_the_end_of_the_work(workers, tmp_path):
    async with asked(tmp_path) as it:
        for fake in workers.all:
            fake.ready()
        await settle()
        scaling = it.ask(control.OrderScale(v=1, to=1))
        await workers.all[1].asked_to_leave()
        await pass_time(10.0)
        assert not scaling.done()
        workers.all[1].exit()
        assert (await scaling).size == 1


async def test_scaling_that_fails(workers, tmp_path):
    async with asked(tmp_path, 1, boot_timeout=20.0) as it:
        workers.all[0].ready()
        await settle()
        crashing = it.ask(control.OrderScale(v=1, to=2))
        await settle()
        workers.all[1].exit(1)
        with pytest.raises(ControlError, match="worker 2 ended before it was ready: exit status 1"):
            await crashing
        late = it.ask(control.OrderScale(v=1, to=2))
        with pytest.raises(
            ControlError, match=r"1 of 2 workers are ready after 20 s|ended before it was ready"
        ):
            await late
        overtaken = it.ask(control.OrderScale(v=1, to=3))
        await turn()
        it.pool.scale(1)
        await settle()
        for fake in workers.all[1:]:
            if fake.status is None:
                fake.exit()
        with pytest.raises(ControlError, match="another request has scaled to 1 meanwhile"):
            await overtaken


async def test_scaling_beside_a_slot_that_has_failed(workers, tmp_path):
    async with asked(tmp_path, 2, give_up=2) as it:
        for fake in workers.all:
            fake.ready()
        await settle()
        for _ in range(2):  # that one ends again and again
            [ill] = [fake for fake in workers.all if fake.slot == 1 and fake.status is None]
            ill.ready()
            ill.exit(1)
            await pass_time(1.0)
        assert it.pool.snapshot().failed_slots == (1,)
        scaling = it.ask(control.OrderScale(v=1, to=3))
        await settle()
        assert not scaling.done()
        workers.all[-1].ready()
        with pytest.raises(ControlError, match="2 of 3 workers are ready; failed slots: 1"):
            await scaling


async def test_drained_and_gone(polite, tmp_path):
    async with asked(tmp_path) as it:
        result = await it.ask(control.OrderDrain(v=1, worker=1))
        assert (result.worker, result.status) == (1, "exit status 0")
        await settle()
        assert [worker.id for worker in (await it.status()).workers] == [3, 2]
        assert (await it.status()).slots[0].restarts == 0


async def test_drained_and_killed_is_a_failure(workers, tmp_path):
    async with asked(tmp_path, grace=3.0) as it:
        for fake in workers.all:
            fake.ready()
        await settle()
        text = await it.refuses(control.OrderDrain(v=1, worker=2))
        assert text == "worker 2 did not finish within its grace, and was killed"


@pytest.mark.parametrize(
    "request_", [control.OrderDrain(v=1, worker=7), control.AskStacks(v=1, worker=-(10**30))]
)
async def test_a_worker_that_is_not_there(polite, tmp_path, request_):
    async with asked(tmp_path) as it:
        assert "the workers are: 1, 2" in await it.refuses(request_, "unknown_worker")


async def test_a_worker_that_the_program_forked_is_not_touched(polite, tmp_path):
    async with asked(tmp_path) as it:
        other = it.pool.cluster.fork()
        await settle()
        await it.refuses(control.OrderDrain(v=1, worker=other.id), "unknown_worker")
        assert other.id not in [worker.id for worker in (await it.status()).workers]


async def test_stopped_once_all_are_gone(workers, tmp_path):
    async with asked(tmp_path) as it:
        stopping = it.ask(control.OrderStop(v=1))
        for fake in workers.all:
            fake.online()
            await fake.asked_to_leave()
        for order in (
            control.OrderReload(v=1),
            control.OrderScale(v=1, to=3),
            control.OrderDrain(v=1, worker=1),
        ):
            await it.refuses(order, "stopping")
        assert (await it.status()).state == "stopping"
        for fake in workers.all:
            assert not stopping.done()
            fake.exit()
        assert await stopping is None
        await it.pool.wait()


async def test_waiting_callers_learn_of_the_end_of_the_pool(workers, tmp_path):
    async with asked(tmp_path) as it:
        for fake in workers.all:
            fake.ready()
        await settle()
        waiting = [
            it.ask(control.OrderReload(v=1)),
            it.ask(control.OrderScale(v=1, to=4)),
        ]
        await settle()
        it.pool.stop()
        await settle()
        for fake in workers.all:
            if fake.status is None:
                fake.exit()
    for one in waiting:
        with pytest.raises(ControlError):
            await one


async def test_stacks_are_asked_of_those_that_hear(polite, tmp_path):
    async with asked(tmp_path) as it:
        polite.all[1]._process.heard |= {STACKS, TASKS}
        deaf, hearing = (await it.ask(control.AskStacks(v=1))).workers
        assert (deaf.worker, deaf.problem is not None) == (1, True)
        assert (hearing.worker, hearing.problem) == (2, None)
        assert [list(map(int, fake._process.signals)) for fake in polite.all] == [[], [STACKS, TASKS]]
        assert [one.worker for one in (await it.ask(control.AskStacks(v=1, worker=2))).workers] == [2]


async def test_no_worker_may_listen_on_the_control_socket(polite, tmp_path):
    async with asked(tmp_path) as it:
        fd = it.pool._control._listener.sock.fileno()
        assert fd in set(it.pool.cluster._runtime.descriptors())
        with pytest.raises(OSError) as caught:
            await polite.all[0]._player.listen(request_for(fd=fd))
        assert caught.value.errno == errno.EBADF


# Without a service


async def test_a_pool_has_none_unless_it_is_asked(polite):
    async with Pool(1) as pool:
        pool.on(Ready, lambda _: None)
        await settle()
        assert pool._control._server is None


@pytest.mark.parametrize("name", ["missing/x.sock", "file"])
async def test_a_path_that_cannot_be_is_an_error_before_any_worker(polite, tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="control: cannot make"):
        async with Pool(1, control=tmp_path / name):
            raise AssertionError
    assert polite.all == []
    assert (tmp_path / "file").read_text() == "mine"


async def test_two_pools_do_not_share_a_path(polite, tmp_path):
    async with Pool(1, control=tmp_path / "x"):
        with pytest.raises(ConfigurationError, match="another service listens there"):
            async with Pool(1, control=tmp_path / "x"):
                raise AssertionError
    async with Pool(1, control=tmp_path / "x"):
        pass
    assert not (tmp_path / "x").exists()


async def test_one_that_is_cancelled_leaves_no_socket(polite, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        async with Pool(1, control=tmp_path / "x"):
            raise KeyboardInterrupt
    assert not (tmp_path / "x").exists()
    assert signal.SIGKILL in polite.all[0].signals or polite.all[0].status is not None
