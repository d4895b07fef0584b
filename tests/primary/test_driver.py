"""The order of a worker's life and death, without a process: the test decides the kernel's order."""

import contextlib
import errno
import logging
import weakref
from collections.abc import AsyncIterator

import pytest

from everycore import Cluster, Disconnected, Exited, Forked, Message, Online, Settings, Worker
from everycore.core import wire
from everycore.events import Event
from everycore.model import ExitStatus, State
from everycore.primary.listeners.switchboard import Switchboard
from everycore.system.board import PrimaryBoard
from tests.kit import turn
from tests.kit.channel_pairs import LOOPS, until
from tests.kit.fake_processes import FakeProcesses, RawWorker

ENDED = ExitStatus(code=0)
INET, STREAM = 2, 1


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.__module__.split(".")[0], autouse=True)
def loop_factory(request):
    """Every test here runs on asyncio's loop and on uvloop's."""
    return request.param


class Stage:
    """An open cluster, its workers' ends, and its events: (kind of event, state of the worker)."""

    def __init__(self, cluster: Cluster, processes: FakeProcesses) -> None:
        self.cluster = cluster
        self.processes = processes
        self.told: list[tuple[type[Event], State]] = []
        cluster.on(Event, self._note)
        cluster.on(Message, self._note)

    def _note(self, event: Event) -> None:
        self.told.append((type(event), event.worker.state))  # type: ignore[attr-defined]

    async def quiet(self) -> None:
        """Wait until the loop is idle: from then on epoll(7) reports events in their order."""
        await turn(4)

    async def fork(self) -> tuple[Worker, RawWorker]:
        """A worker that runs, and has sent nothing."""
        worker = self.cluster.fork()
        await until(lambda: self.told)
        assert self.told == [(Forked, State.NONE)]
        await self.quiet()
        return worker, self.processes.all[-1]


@contextlib.asynccontextmanager
async def stage(**options) -> AsyncIterator[Stage]:
    with FakeProcesses() as processes:
        async with Cluster(Settings(exec="program.py"), **options) as cluster:
            yield Stage(cluster, processes)


def listen(request: int = 1) -> wire.Listen:
    return wire.Listen(
        request=request,
        address=["127.0.0.1", 0],
        family=INET,
        kind=STREAM,
        fd=None,
        backlog=10,
        v6only=True,
        mode=None,
        start=True,
    )


async def test_a_spawn_that_is_refused_is_an_exit_and_leaves_nothing():
    """The kernel refuses when the channel and the link exist already."""
    async with stage() as on:
        on.processes.system.refusals.append(OSError(errno.EAGAIN, "no more processes"))
        worker = on.cluster.fork()
        assert on.told == []
        status = await worker.wait()
        assert status.error is not None
        assert status.error.errno == errno.EAGAIN
        assert on.told == [
            (Forked, State.NONE),
            (Disconnected, State.DISCONNECTED),
            (Exited, State.DEAD),
        ]
        assert len(on.cluster.workers) == 0
        again = on.cluster.fork()
        assert (again.slot, again.id) == (0, 2)
        await turn(2)
        on.processes.all[-1].end(ENDED)
        assert await again.wait() == ENDED


@pytest.mark.parametrize("keep_channel", [False, True], ids=["closed", "held-by-a-grandchild"])
async def test_what_was_said_is_heard_though_the_end_is_told_first(keep_channel):
    """The pidfd is ready before the channel, which holds a whole life."""
    async with stage() as on:
        worker, process = await on.fork()
        process.end(ENDED, keep_channel=True)
        process.join()
        process.say_note("the last word")
        if not keep_channel:
            process.close()
        assert await worker.wait() == ENDED
        assert on.told == [
            (Forked, State.NONE),
            (Online, State.ONLINE),
            (Message, State.ONLINE),
            (Disconnected, State.DISCONNECTED),
            (Exited, State.DEAD),
        ]


async def test_one_that_has_ended_is_granted_no_listener():
    async with stage() as on:
        worker, process = await on.fork()
        process.join()
        await until(lambda: worker.state is State.ONLINE)
        await on.quiet()
        process.end(ENDED, keep_channel=True)
        process.say(listen())
        process.say_on_link(listen(0))
        assert await worker.wait() == ENDED
        assert on.cluster.snapshot().listeners == ()


@pytest.mark.parametrize(
    ("owner", "step"),
    [(Switchboard, "rest"), (Switchboard, "remove"), (PrimaryBoard, "release")],
    ids=["leave-rotation", "release", "board"],
)
async def test_a_step_that_fails_in_the_middle_of_an_end_holds_up_no_other(monkeypatch, caplog, owner, step):
    def fail(*_args, **_options):
        raise RuntimeError("a fault")

    async with stage() as on:
        worker, process = await on.fork()
        process.join()
        await until(lambda: worker.state is State.ONLINE)
        with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL, "everycore"):
            patch.setattr(owner, step, fail)
            process.end(ENDED)
            assert await worker.wait() == ENDED
        assert [kind for kind, _ in on.told] == [Forked, Online, Disconnected, Exited]
        assert len(on.cluster.workers) == 0
        await on.cluster.wait()


async def test_a_worker_has_nothing_but_its_documented_names():
    async with stage() as on:
        worker, process = await on.fork()
        with pytest.raises(AttributeError):
            worker.nickname = "first"  # type: ignore[attr-defined]
        assert not hasattr(worker, "__dict__")
        assert weakref.ref(worker)() is worker
        process.end(ENDED)
        await worker.wait()


async def test_asked_to_leave_before_it_is_there_it_is_told_when_it_joins():
    async with stage() as on:
        worker, process = await on.fork()
        worker.disconnect()
        assert (worker.state, worker.exited_voluntarily) == (State.NONE, True)
        assert process.signals == []
        process.say_on_link(wire.ReadyNow())
        await turn(3)
        assert not worker.is_ready
        process.join()
        await until(lambda: worker.state is State.DRAINING)
        assert process.signals == [15]  # no loop of ours reads its channel
        process.end(ENDED)
        await worker.wait()
        assert [kind for kind, _ in on.told] == [Forked, Online, Disconnected, Exited]
