"""The driver of `core.supervisor`: keeps the workers of one cluster as the supervisor decides.

It tells the supervisor what happens in a `Cluster`, and carries out its orders. Invariant: inputs are handled
one at a time. The actions of one input are performed in order before the next input, whatever its source (an
event, a timer, or a callback that scales during a fork). Every `reload` ends with the pool at the latest.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any, Final

import msgspec

from everycore.aio.deadline import Deadline
from everycore.aio.waiting import settle
from everycore.core import orders
from everycore.core.in_turn import InTurn
from everycore.core.recycling import RecyclingLimits
from everycore.core.slots import SlotFailure
from everycore.core.stalls import StallLimits
from everycore.core.supervisor import Supervisor
from everycore.errors import BootError, ConfigurationError, ReloadFailed
from everycore.events import Exited, Ready, Recycled, ReloadBegan, ReloadEnded
from everycore.model import ReloadSnapshot, Snapshot
from everycore.primary import together
from everycore.primary.asking import Asking
from everycore.primary.cluster import Cluster
from everycore.primary.mold_renewals import MoldRenewals
from everycore.primary.recycling import AgeWatch
from everycore.primary.stallwatch import StallWatch
from everycore.primary.words import SupervisionWords, joined
from everycore.system import chance
from everycore.worker_face import Worker

log = logging.getLogger("everycore.primary")

#: Why a reload did not end, if no worker is to blame.
POOL_ENDS: Final = "the pool was told to stop before all workers were replaced"


class Keeper:
    """Keeps the workers of an open cluster. `end` is done when the pool has ended; a BootError says why."""

    def __init__(
        self,
        cluster: Cluster,
        supervisor: Supervisor,
        before_reload: Callable[[], object] | None = None,
        stall_limits: StallLimits | None = None,
        recycling: RecyclingLimits | None = None,
    ) -> None:
        self._before_reload = before_reload
        self._cluster = cluster
        self._supervisor = supervisor
        self._words = SupervisionWords(supervisor, lambda: cluster._runtime.switchboard.postponed)
        self._loop = asyncio.get_running_loop()
        self.end: asyncio.Future[None] = self._loop.create_future()
        self.asking = Asking(cluster, self.end)
        #: Called when a reload is refused.
        self.on_refused: Callable[[], object] = lambda: None
        self._inputs = InTurn[orders.Input](self._decide)
        #: Lets the supervisor decide about an input, and performs its actions.
        self._tell = self._inputs.tell
        self._workers: dict[int, Worker] = {}
        self._stalls = StallWatch(cluster, self._workers, stall_limits or StallLimits())
        limits = recycling or RecyclingLimits()
        self._ages = AgeWatch(cluster, self._workers, limits, lambda *why: self._tell(orders.Recycle(*why)))
        self._molds = MoldRenewals(cluster, supervisor.rollout, self._tell)
        self._deadline = Deadline(self._loop, lambda: self._tell(orders.TimerFired()))
        self._requests = count(1)
        self._reloads: dict[int, asyncio.Future[int]] = {}
        self._reload: ReloadSnapshot | None = None
        self._follower = self._loop.create_task(self._follow(cluster.events(Ready, Exited)))

    async def close(self) -> None:
        """Wait for the remaining events, after the cluster has closed its event stream."""
        await self._follower
        self._deadline.set(None)
        self._stalls.close()
        self._ages.close()
        self._end_all_reloads()

    def complete(self, snapshot: Snapshot) -> Snapshot:
        """`snapshot` with what only a pool knows."""
        return msgspec.structs.replace(snapshot, reload=self._reload, failed_slots=self.failed_slots)

    @property
    def failed_slots(self) -> tuple[int, ...]:
        """The slots in which too many workers have ended too soon."""
        return self._supervisor.failed_slots

    def address_in_use(self, worker: int) -> str | None:
        """The sentence about the address in use that this worker was told of; None without one."""
        return self._words.address_in_use(worker)

    def owns(self, worker: int) -> bool:
        """Whether this keeps the worker. The program may have forked others from the same cluster."""
        return worker in self._workers

    # Operations

    @property
    def size(self) -> int:
        """How many workers are to be alive; 0 once the pool ends."""
        return self._supervisor.wanted

    def scale(self, count: int) -> None:
        """Keep `count` workers from now on."""
        self._tell(orders.ScaleTo(count))

    def change_terms(
        self,
        *,
        grace: float,
        shutdown_timeout: float,
        boot_timeout: float | None,
        surge: int,
        stall_limits: StallLimits | None = None,
        recycling: RecyclingLimits | None = None,
        workers: int | None = None,
    ) -> None:
        """Use other numbers for workers that are started from now on. `workers`: None leaves their number.

        Call this while a reload is ordered: the reload begins before additional workers start, which would be
        old.
        """
        runtime = self._cluster._runtime
        runtime.terms = msgspec.structs.replace(runtime.terms, grace=grace, shutdown_timeout=shutdown_timeout)
        self._supervisor.boot_timeout = boot_timeout
        self._supervisor.rollout.surge = surge
        self._stalls.change(stall_limits or StallLimits())
        self._ages.limits = recycling or RecyclingLimits()
        if workers is not None:
            self._loop.call_soon(self.scale, workers)

    def drain(self, worker: int) -> None:
        """Let a worker finish its work and leave, and fill its slot."""
        self._tell(orders.Drain(worker))

    def stop(self) -> None:
        """Ask all workers to leave, and replace none. From now on no worker can be forked."""
        self._cluster._begin_shut_down()
        self._tell(orders.Stop())

    def reopen_logs(self, *, tells_programs: bool = True) -> None:
        """Let every worker reopen its log files. tells_programs: programs get SIGUSR1 too."""
        together.reopen_logs(self._cluster._book, tells_programs=tells_programs)

    def pause(self) -> None:
        """Stop the processes of all workers until `resume`."""
        together.pause(self._cluster._book)

    def resume(self) -> None:
        """Let them continue."""
        together.resume(self._cluster._book)
        self._stalls.begin_anew()

    def order_reload(self) -> asyncio.Future[int]:
        """Replace all workers. The future gets their generation or ReloadFailed; it need not be awaited."""
        future: asyncio.Future[int] = self._loop.create_future()
        # The log has the failure: asyncio need not report that the future was not awaited.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.end.done():
            future.set_exception(ReloadFailed(None, POOL_ENDS))
        elif (refusal := self._refusal()) is not None:
            log.error("the reload is refused, and nothing has changed: %s", refusal)
            self.on_refused()
            future.set_exception(ReloadFailed(None, str(refusal)))
        else:
            request = next(self._requests)
            self._reloads[request] = future
            self._molds.look()
            self._tell(orders.Reload(request))
        return future

    def _refusal(self) -> ConfigurationError | None:
        """What is wrong with the settings from which a reload would begin; None if nothing is."""
        try:
            if self._before_reload is not None:
                self._before_reload()
        except ConfigurationError as error:
            return error
        return None

    # Inputs

    def _decide(self, given: orders.Input) -> None:
        try:
            for action in self._supervisor.handle(given, self._loop.time()):
                self._perform(action)
        except Exception as error:
            # A bug, or other code has closed the cluster: in either case the pool has ended.
            settle(self.end, error)
            self._end_all_reloads()
            self._inputs.clear()

    async def _follow(self, events: AsyncIterator[Any]) -> None:
        async for event in events:
            match event:
                case Ready():
                    self._stalls.ready(event.worker.id)
                    self._ages.ready(event.worker.id)
                    self._tell(orders.WorkerReady(event.worker.id))
                case Exited():
                    number = event.worker.id
                    was_refused = self.address_in_use(number) is not None
                    self._tell(orders.WorkerExited(number, event.status, chance.fraction(), was_refused))
                    self._stalls.exited(event.worker.id)
                    self._workers.pop(event.worker.id, None)

    # Actions

    def _perform(self, action: orders.Action) -> None:
        match action:
            case orders.Fork(slot, generation):
                # A pool that has run does not end for a setting that cannot work now: it tries again.
                raises = generation == 0 and not self._supervisor.was_ever_ready
                worker = self._cluster._fork(slot=slot, generation=generation, raises=raises)
                self._workers[worker.id] = worker
                self.asking.forked(worker)
                # At once: before anything that a callback may have asked for meanwhile.
                self._supervisor.handle(orders.WorkerForked(slot, worker.id), self._loop.time())
            case orders.Dismiss(number):
                self._workers[number].disconnect()
            case orders.Kill(number):
                self._workers[number].kill(signal.SIGKILL)
            case orders.SetTimer(at):
                self._deadline.set(at)
            case orders.Prepare():
                self._molds.perform(action)
            case orders.Replace():
                level = logging.DEBUG if action.is_known else logging.WARNING
                log.log(level, "%s", self._words.replaced(action, self._stalls.exited(action.worker)))
            case orders.SlotFailed() | orders.SlotWorks() | orders.RecyclingFailed() | orders.FailPool():
                log.log(*self._words.told(action))
            case orders.Recycling(number, slot, why):
                log.info("worker %d (slot %d) is replaced: %s", number, slot, why)
                self._cluster._log.emit_about(self._workers[number], Recycled, reason=why)
            case orders.Wait(failure):
                log.error("%s", joined(self._words.describe(failure), "waiting for changes"))
            case orders.Reloading(generation):
                self._begin_reload(generation)
            case orders.Reloaded(generation, requests):
                log.info("reload %d: all workers are new", generation)
                self._end_reload(generation, requests, None)
            case orders.ReloadStopped(generation, requests, failure):
                self._stop_reload(generation, requests, failure)
            case orders.Finish(failure):
                self._finish(failure)

    def _finish(self, failure: SlotFailure | None) -> None:
        self._end_all_reloads()
        error = None if failure is None else BootError(failure.worker, self._words.describe(failure))
        settle(self.end, error)

    # Reloads

    def _begin_reload(self, generation: int) -> None:
        log.info("reload %d: replacing the workers (%d)", generation, self._supervisor.wanted)
        self._reload = ReloadSnapshot(generation, "running")
        self._cluster._log.emit(ReloadBegan, generation=generation)

    def _stop_reload(self, generation: int, requests: tuple[int, ...], failure: SlotFailure | None) -> None:
        if failure is None:
            error = ReloadFailed(None, POOL_ENDS)
        else:
            error = ReloadFailed(failure.worker or None, self._words.describe(failure))
            serves = any(worker.is_ready for worker in self._workers.values())
            follows = self._words.what_follows(serves=serves)
            log.error("reload %d failed: %s", generation, joined(error.report, follows))
        self._end_reload(generation, requests, error)

    def _end_reload(self, generation: int, requests: tuple[int, ...], error: ReloadFailed | None) -> None:
        if self._reload is not None and self._reload.state == "running":
            state: Any = "done" if error is None else "failed"
            self._reload = ReloadSnapshot(generation, state, "" if error is None else error.report)
            self._cluster._log.emit(ReloadEnded, generation=generation, error=error)
        for request in requests:
            settle(self._reloads.pop(request), error or generation)

    def _end_all_reloads(self) -> None:
        """Fail the reloads: the pool has ended, for whatever reason."""
        for future in self._reloads.values():
            settle(future, ReloadFailed(None, POOL_ENDS))
        self._reloads.clear()
