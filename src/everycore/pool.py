"""`Pool`: a cluster that keeps its number of workers.

Job: drive `core.supervisor` with the events of a `Cluster`, and perform what it decides. Invariant: one input
at a time, its actions performed in order before the next is looked at, whoever called (an event, a timer, or
a callback that calls `scale` while we fork). Must not import cli, ops or servers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from everycore.aio.emitter import EventStream
from everycore.aio.requests import Handler
from everycore.aio.shutdown import current_shutdown
from everycore.aio.subscriptions import Subscription
from everycore.core import supervisor
from everycore.core.restarts import Backoff
from everycore.core.supervisor import Supervisor
from everycore.errors import BootError, ClusterClosed
from everycore.events import Event, Exited, Ready
from everycore.model import Snapshot
from everycore.primary.asking import Asking
from everycore.primary.cluster import Cluster
from everycore.primary.worker import Worker
from everycore.settings import Settings, check_count, check_seconds
from everycore.system.machine import cpu_bound, memory_limit, worker_bound

E = TypeVar("E", bound=Event)
_logger = logging.getLogger("everycore")


class Pool:
    """Keeps `workers` alive: a worker that ends without being asked is replaced, after 0.1 s at first.

        async with everycore.Pool(4, settings=everycore.Settings(exec="server.py")) as pool:
            await pool.wait()

    The wait before a restart doubles up to 15 s, and is short again once a worker was ready for half a
    minute. If a worker ends before any worker was ever ready, the application cannot start: the pool stops
    all workers and `wait` raises `BootError`. Once one was ready, the pool never gives up. A worker that is
    not ready within `boot_timeout` seconds is killed; one that never listens has to call `everycore.ready()`.
    With `may_finish`, a worker that ends with status 0 before it was ready has done its work and is not
    replaced; `wait` returns when all have.

    Leaving the block stops all workers, as leaving that of a `Cluster` does, and raises the `BootError` that
    nobody has heard from `wait`. The other arguments are those of `Cluster`, with one other default: while no
    worker is ready, connections wait.
    """

    def __init__(
        self,
        workers: int | Literal["auto"] = "auto",
        *,
        settings: Settings | None = None,
        policy: str | None = None,
        grace: float = 30.0,
        when_no_worker: Literal["refuse", "hold"] = "hold",
        hold_timeout: float = 30.0,
        recall_after: float = 0.02,
        orphan_grace: float = 0.0,
        max_message: int = 16 * 1024 * 1024,
        boot_timeout: float | None = 60.0,
        may_finish: bool = False,
        new_group: bool = False,
        raise_nofile: bool = True,
    ) -> None:
        self._count = auto_workers() if workers == "auto" else check_count("workers", workers)
        if boot_timeout is not None:
            boot_timeout = check_seconds("boot_timeout", boot_timeout, least=0.1)
        self._supervisor = Supervisor(Backoff(), boot_timeout, may_finish)
        self.cluster = Cluster(
            settings,
            policy=policy,
            grace=grace,
            when_no_worker=when_no_worker,
            hold_timeout=hold_timeout,
            recall_after=recall_after,
            orphan_grace=orphan_grace,
            max_message=max_message,
            new_group=new_group,
            raise_nofile=raise_nofile,
        )
        self._boot_timeout = boot_timeout
        self._inputs: deque[supervisor.Input] = deque()
        self._is_busy = False
        self._is_open = False
        self._is_told = False
        self._ours: dict[int, Worker] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Future[None]
        self._follower: asyncio.Task[None]
        self._asking: Asking

    # What a user calls

    @property
    def workers(self) -> Mapping[int, Worker]:
        """The live workers by id, as `Cluster.workers`."""
        return self.cluster.workers

    @property
    def size(self) -> int:
        """How many workers are to be alive: the last `scale`, and 0 once the pool ends."""
        return self._supervisor.wanted

    def scale(self, count: int) -> None:
        """Keep `count` workers from now on. Those too many finish their work; the highest slots go."""
        self._check_open()
        self._tell(supervisor.ScaleTo(check_count("workers", count)))

    def stop(self) -> None:
        """Ask all workers to finish and leave, and replace none; `wait` returns when they are gone."""
        self._check_open()
        self._tell(supervisor.Stop())

    async def wait(self) -> None:
        """Wait until the pool has ended: after `stop`, or with `BootError`: the application cannot start."""
        self._check_open()
        try:
            await asyncio.shield(self._end)
        finally:
            self._is_told = self._end.done()

    async def disconnect(self, timeout: float | None = None) -> None:
        """`stop`, and wait until all workers are gone. Raises TimeoutError after `timeout` seconds."""
        self.stop()
        async with asyncio.timeout(timeout):
            await self.cluster.wait()

    async def _shut_down(self) -> None:
        """`disconnect`, for `everycore.run` at a signal: `stop` replaces nobody."""
        await self.disconnect()

    async def __aenter__(self) -> Self:
        await self.cluster.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_future()
        self._follower = self._loop.create_task(self._follow(self.cluster.events(Ready, Exited)))
        self._asking = Asking(self.cluster, self._end)
        self._is_open = True
        if (shutdown := current_shutdown()) is not None:
            # `everycore.run` is to stop us at a signal: if it stopped the cluster, we would fork again.
            shutdown.add(self)
            shutdown.discard(self.cluster)
        self.scale(self._count)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()  # so that nobody is replaced while the cluster stops them
        self._is_open = False
        try:
            await self.cluster.__aexit__(kind, error, trace)
        finally:
            if (shutdown := current_shutdown()) is not None:
                shutdown.discard(self)
            # The cluster has closed its events, so this ends once those left are told, and with it the pool.
            await self._follower
            self._set_timer(None)
        failure = self._end.exception() if self._end.done() else None
        if failure is not None and kind is None and not self._is_told:
            raise failure

    # Events and messages

    def on(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """As `Cluster.on`."""
        return self.cluster.on(kind, callback)

    def once(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """As `Cluster.once`."""
        return self.cluster.once(kind, callback)

    @overload
    def events(self) -> EventStream[Event]: ...
    @overload
    def events(self, *kinds: type[E]) -> EventStream[E]: ...
    def events(self, *kinds: type[Event]) -> EventStream[Any]:
        """As `Cluster.events`."""
        return self.cluster.events(*kinds)

    def snapshot(self) -> Snapshot:
        """As `Cluster.snapshot`."""
        return self.cluster.snapshot()

    async def broadcast(self, message: Any) -> int:
        """As `Cluster.broadcast`."""
        return await self.cluster.broadcast(message)

    def answer(self, handler: Handler) -> Subscription:
        """Let `async def handler(message, handle)` answer every worker's requests, later workers' included.

        Raises: TypeError for another kind of function; RuntimeError if somebody answers already.
        """
        self._check_open()
        return self._asking.answer(handler)

    async def request(
        self, message: Any, handle: Any = None, *, timeout: float | None, keep_open: bool = False
    ) -> Any:
        """Ask a free worker and return its reply: the ready one with the fewest of these requests open.

        Waits for a worker where none is ready. `timeout`, in seconds, is for all of it; None: no limit. A
        request is never sent twice: if its worker is lost, that is ChannelClosed, whatever it has done.

        Raises: RequestFailed, RequestTimeout, ChannelClosed, BootError and ClusterClosed where the pool has
        ended, and what `Worker.send` raises.
        """
        self._check_open()
        try:
            return await self._asking.request(message, handle, timeout=timeout, keep_open=keep_open)
        except BootError:
            self._is_told = True
            raise

    def _check_open(self) -> None:
        if not self._is_open:
            raise ClusterClosed("the pool is not open: use `async with Pool() as pool:`")

    # Inputs and actions

    async def _follow(self, events: AsyncIterator[Any]) -> None:
        async for event in events:
            match event:
                case Ready():
                    self._tell(supervisor.Ready(event.worker.id))
                case Exited():
                    self._tell(supervisor.Exited(event.worker.id, event.status, random.random()))
                    self._ours.pop(event.worker.id, None)

    def _tell(self, given: supervisor.Input) -> None:
        self._inputs.append(given)
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while self._inputs:
                for action in self._supervisor.handle(self._inputs.popleft(), self._loop.time()):
                    self._perform(action)
        except Exception as error:
            # A bug, or the cluster was closed by another hand: either way the pool is over.
            self._inputs.clear()
            if not self._end.done():
                self._end.set_exception(error)
        finally:
            self._is_busy = False

    def _perform(self, action: supervisor.Action) -> None:
        match action:
            case supervisor.Fork(slot):
                worker = self.cluster._fork(slot=slot)
                self._ours[worker.id] = worker
                self._asking.forked(worker)
                # At once: before anything that a callback may have asked for meanwhile.
                self._supervisor.handle(supervisor.Forked(slot, worker.id), self._loop.time())
            case supervisor.Dismiss(number):
                self._ours[number].disconnect()
            case supervisor.Kill(number):
                self._ours[number].kill(signal.SIGKILL)
            case supervisor.SetTimer(at):
                self._set_timer(at)
            case supervisor.Replace():
                self._log_replace(action)
            case supervisor.GiveUp(failure):
                _logger.debug("giving up: %s", self._describe(failure))
            case supervisor.Finish(failure):
                self._finish(failure)

    def _finish(self, failure: supervisor.Failure | None) -> None:
        if self._end.done():
            return
        if failure is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(BootError(failure.worker, self._describe(failure)))

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None else self._loop.call_at(at, self._tell, supervisor.TimerFired())

    def _describe(self, failure: supervisor.Failure) -> str:
        if failure.overdue:
            return f"worker {failure.worker} was not ready within {self._boot_timeout:g} s, and was killed"
        return f"worker {failure.worker} ended before it was ready: {failure.status}"

    def _log_replace(self, action: supervisor.Replace) -> None:
        how = f"not ready within {self._boot_timeout:g} s, killed" if action.overdue else action.status
        _logger.warning(
            "worker %d (slot %d) ended: %s; its slot is filled again in %.1f s",
            action.worker,
            action.slot,
            how,
            action.delay,
        )


def auto_workers() -> int:
    """How many workers "auto" is here: one a CPU, but no more than the memory limit has room for."""
    return worker_bound(cpu_bound(), memory_limit()).count
