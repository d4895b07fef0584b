"""`Pool`: a cluster that keeps its number of workers.

The public face: `core.supervisor` decides, and `primary.keeper`, which drives it, has the operations. Signals
and whatever else commands a pool call the same ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from everycore.aio.emitter import EventStream
from everycore.aio.orders import obey_signals
from everycore.aio.requests import Handler
from everycore.aio.shutdown import current_shutdown
from everycore.aio.subscriptions import Subscription
from everycore.core.recycling import recycling_limits
from everycore.core.restarts import Backoff, Intensity
from everycore.core.rollout import Rollout
from everycore.core.stalls import stall_limits
from everycore.core.supervisor import Supervisor
from everycore.errors import BootError, ClusterClosed, ConfigurationError
from everycore.events import Event
from everycore.model import Snapshot
from everycore.primary.cluster import Cluster
from everycore.primary.controlling import ControlPost, plan_of
from everycore.primary.keeper import Keeper
from everycore.settings import Settings, check_count, check_seconds
from everycore.system.machine import cpu_bound, memory_limit, worker_bound
from everycore.worker_face import Worker

E = TypeVar("E", bound=Event)


class Pool:
    """Keeps `workers` alive: a worker that ends without being asked is replaced, after 0.1 s at first.

        async with everycore.Pool(4, settings=everycore.Settings(exec="server.py")) as pool:
            await pool.wait()

    The wait before a restart doubles up to 15 s, and is short again once a worker was ready for half a
    minute. If a worker ends before any worker was ever ready, the application cannot start: the pool stops
    all workers and `wait` raises `BootError`. Once one was ready, it gives up only if `give_up` workers of
    each slot ended within a minute, or in a row before they were ready. A worker not ready within
    `boot_timeout` seconds is killed; one that never listens has to call `everycore.ready()`. With
    `may_finish`, one that ends with status 0 before that has done its work; `wait` returns when all have.

    `reload` replaces all workers, `surge` at a time: a new one is ready before the old one leaves. With a
    surge of 0 the old one leaves first, so that what is numbered by slot never has two owners. With
    `signals`, HUP reloads, USR1 opens log files anew, TTIN and TTOU scale, and TSTP and CONT stop and
    continue all, while the block is open.
    `before_reload` is called when a reload is ordered: what it changes by `cluster.setup_primary` holds for
    the new workers. ConfigurationError from it refuses the reload, and nothing has changed.

    A ready worker that shows no progress (`Stalled`) prints its stacks after `stall_dump`
    seconds, and is aborted and replaced after `stall_kill`. One that has reached a limit (`max_...`,
    `Recycled`) is replaced, the new one ready first. With `control`, True or a socket's
    path, `everycore status` and the like see and steer the pool. Leaving the block stops all workers, as
    leaving that of a `Cluster` does, and raises the `BootError` that nobody has heard from `wait`. The other
    arguments are those of `Cluster`, with one other default: while no worker is ready, connections wait.
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
        recall_after: float | None = None,
        trust_proxy_protocol: Sequence[str] = (),
        orphan_grace: float = 0.0,
        max_message: int = 16 * 1024 * 1024,
        boot_timeout: float | None = 60.0,
        may_finish: bool = False,
        surge: int = 1,
        signals: bool = False,
        new_group: bool = False,
        shutdown_timeout: float = 0.0,
        raise_nofile: bool = True,
        before_reload: Callable[[], object] | None = None,
        stall_dump: float | None = None,
        stall_kill: float | None = None,
        give_up: int | None = None,
        max_requests: int | None = None,
        max_requests_jitter: int | None = None,
        max_connections: int | None = None,
        max_lifetime: float | None = None,
        max_memory: int | None = None,
        control: bool | str | os.PathLike[str] = False,
    ) -> None:
        self._control = ControlPost(plan_of(control))
        self._before_reload = before_reload
        self._count = auto_workers() if workers == "auto" else check_count("workers", workers)
        if boot_timeout is not None:
            boot_timeout = check_seconds("boot_timeout", boot_timeout, least=0.1)
        rollout = Rollout(check_count("surge", surge, least=0))
        ends = None if give_up is None else check_count("give_up", give_up)
        self._supervisor = Supervisor(Backoff(), boot_timeout, may_finish, rollout, Intensity(ends))
        ages = recycling_limits(max_requests, max_requests_jitter, max_connections, max_lifetime, max_memory)
        self._limits = stall_limits(stall_dump, stall_kill), ages
        self.cluster = Cluster(
            settings,
            policy=policy,
            grace=grace,
            when_no_worker=when_no_worker,
            hold_timeout=hold_timeout,
            recall_after=recall_after,
            trust_proxy_protocol=trust_proxy_protocol,
            orphan_grace=orphan_grace,
            max_message=max_message,
            new_group=new_group,
            shutdown_timeout=shutdown_timeout,
            raise_nofile=raise_nofile,
        )
        self._obeys_signals = signals
        self._is_open = self._is_told = False
        self._keeper: Keeper
        self._leave = contextlib.ExitStack()

    # What a user calls

    @property
    def workers(self) -> Mapping[int, Worker]:
        """The live workers by id, as `Cluster.workers`."""
        return self.cluster.workers

    @property
    def size(self) -> int:
        """How many workers are to be alive: the last `scale`, and 0 once the pool ends."""
        return self._keeper.size if self._is_open else 0

    def scale(self, count: int) -> None:
        """Keep `count` workers from now on. Those too many finish their work; the highest slots go."""
        self._check_open()
        self._keeper.scale(check_count("workers", count))

    async def reload(self) -> None:
        """Replace all workers by new ones, slot by slot; returns when the last new one is ready.

        The workers that were replaced finish their work meanwhile, and for the grace at most. A reload that
        is asked for while one is under way begins when that one has ended. Cancelling this call stops
        nothing.

        Raises: ReloadFailed if `before_reload` refused it, or a new worker did not become ready: those that
        were replaced stay new, the others keep running. Until the next reload `snapshot` says so.
        """
        self._check_open()
        await self._keeper.order_reload()

    def drain(self, worker: int) -> None:
        """Let the worker with that id finish its work and leave. Its slot is filled at once; surge 0: then.

        Raises: ConfigurationError if it is not one of the pool's.
        """
        self._check_open()
        if not self._keeper.owns(worker):
            raise ConfigurationError("worker", f"this pool has no worker {worker!r}")
        self._keeper.drain(worker)

    def stop(self, *, spares_idle: bool = True) -> None:
        """Ask all workers to finish and leave, and replace none; `wait` returns when they are gone.

        spares_idle: a client with an open connection that asks for nothing is given time to ask once more,
        where the worker's server knows how (`everycore serve`); False: its connection is closed at once.
        """
        self._check_open()
        if not spares_idle:
            self.cluster._ending.close_idle()
        self._keeper.stop()

    def _announce_stop(self) -> None:
        self.cluster._announce_stop()

    def _begin_shut_down(self) -> None:
        self.stop()

    async def _shut_down(self) -> None:
        self.stop()
        await self.cluster._shut_down()  # those too that somebody else has forked

    async def wait(self) -> None:
        """Wait until the pool has ended: after `stop`, or with `BootError`: the application cannot start."""
        self._check_open()
        try:
            await asyncio.shield(self._keeper.end)
        finally:
            self._is_told = self._keeper.end.done()

    async def disconnect(self, timeout: float | None = None) -> None:
        """`stop`, and wait until all workers are gone. Raises TimeoutError after `timeout` seconds."""
        self.stop()
        async with asyncio.timeout(timeout):
            await self.cluster.wait()

    async def __aenter__(self) -> Self:
        await self._control.enter(self.cluster)
        self._keeper = Keeper(self.cluster, self._supervisor, self._before_reload, *self._limits)
        self._is_open = True
        if (shutdown := current_shutdown()) is not None:
            # `everycore.run` is to stop us at a signal: if it stopped the cluster, we would fork again.
            shutdown.add(self)
            shutdown.discard(self.cluster)
        if self._obeys_signals:
            self._leave.enter_context(obey_signals(asyncio.get_running_loop(), self._keeper))
        self.scale(self._count)
        self._control.begin(self.cluster, self._keeper, shutdown)
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
            self._leave.close()
            await self._control.leave(self._keeper)
        end = self._keeper.end
        failure = end.exception() if end.done() else None
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
        """As `Cluster.snapshot`, and what became of the last reload, and which slots have failed."""
        snapshot = self.cluster.snapshot()
        return self._keeper.complete(snapshot) if self._is_open else snapshot

    async def broadcast(self, message: Any) -> int:
        """As `Cluster.broadcast`."""
        return await self.cluster.broadcast(message)

    def answer(self, handler: Handler) -> Subscription:
        """Let `async def handler(message, handle)` answer every worker's requests, later workers' included.

        Raises: TypeError for another kind of function; RuntimeError if somebody answers already.
        """
        self._check_open()
        return self._keeper.asking.answer(handler)

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
            return await self._keeper.asking.request(message, handle, timeout=timeout, keep_open=keep_open)
        except BootError:
            self._is_told = True
            raise

    def _check_open(self) -> None:
        if not self._is_open:
            raise ClusterClosed("the pool is not open: use `async with Pool() as pool:`")


def auto_workers() -> int:
    """How many workers "auto" is here: one a CPU, but no more than the memory limit has room for."""
    return worker_bound(cpu_bound(), memory_limit()).count
