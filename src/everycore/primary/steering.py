"""How a service is steered from outside: the operations behind the control socket.

Each operation belongs to the keeper. This module knows what the asking client waits for, and what it is told.
Invariant: no request decides about a worker by itself, and none changes what signals and `Pool` do.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from everycore.aio.subscriptions import Subscription
from everycore.aio.waiting import settle
from everycore.core import control
from everycore.core.control import ControlEvent
from everycore.core.crew import RELOAD_SECONDS
from everycore.core.history import History
from everycore.errors import ControlError, ReloadFailed
from everycore.events import (
    Event,
    Exited,
    Forked,
    Listening,
    Message,
    Ready,
    Recycled,
    ReloadEnded,
    SetUp,
    Stalled,
    WorkerEvent,
)
from everycore.model import ExitStatus
from everycore.primary.cluster import Cluster
from everycore.primary.driver import driver_of
from everycore.primary.keeper import Keeper
from everycore.primary.measuring import measure
from everycore.primary.surveying import survey
from everycore.system.addresses import as_url
from everycore.system.resident import stderr_of
from everycore.system.stacks import STACKS, TASKS
from everycore.worker_face import Worker

log = logging.getLogger("everycore.primary")

T = TypeVar("T")
#: Seconds that a worker has to print its stacks before the next one is asked, and that all of them have.
_BETWEEN_STACKS: Final = 0.05
_ALL_STACKS: Final = 2.0
#: Fields of an event that a `ControlEvent` has elsewhere, or that clients must not see.
_KNOWN: Final = frozenset({"seq", "at", "worker", "generation", "voluntary", "family", "kind", "fd"})


class Steering:
    """A service, for the clients of its control socket."""

    def __init__(
        self,
        cluster: Cluster,
        keeper: Keeper,
        name: control.ServiceName,
        stop: Callable[[], object],
        stacks_file: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._stacks_file = stacks_file
        self._cluster = cluster
        self._keeper = keeper
        self._name = name
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._started_at = cluster._log.now()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._events: deque[ControlEvent] = deque(maxlen=control.MOST_EVENTS)
        self._followers: list[Callable[[ControlEvent], None]] = []
        self._scalings: list[_Scaling] = []
        self.history = History()
        self._subscription = cluster.on(Event, self._note)

    # --- what happens -------------------------------------------------------------------------------------

    def _note(self, event: Event) -> None:
        if isinstance(event, SetUp | Message):  # `SetUp` contains the environment of workers
            return
        was_ready = False
        match event:
            case Forked(worker=worker):
                self.history.forked(worker.id, self._loop.time())
            case Ready(worker=worker):
                self.history.ready(worker.id)
            case Stalled(worker=worker):
                self.history.stalled(worker.id)
            case Recycled(worker=worker):
                self.history.recycled(worker.id)
            case ReloadEnded(error=error):
                self.history.reloaded(is_done=error is None)
            case Exited(worker=worker, status=status, voluntary=voluntary):
                how = str(status)
                was_ready = self.history.exited(worker.id, worker.slot, how, event.at, voluntary=voluntary)
        told = _told(event)
        self._events.append(told)
        for tell in tuple(self._followers):
            tell(told)
        for scaling in tuple(self._scalings):
            scaling.look(event, was_ready=was_ready)

    def follow(self, tell: Callable[[ControlEvent], None]) -> Subscription:
        """Tell of every event from now on."""
        self._followers.append(tell)
        return Subscription(lambda: self._followers.remove(tell))

    def end(self) -> None:
        """Answer the waiting clients: the service ends."""
        self._subscription.cancel()
        settle(self._end, None)

    # --- what is asked ------------------------------------------------------------------------------------

    async def answer(self, request: control.Request, tell: Callable[[ControlEvent], None]) -> object:
        """Carry out `request` and return the result. Raises ControlError."""
        match request:
            case control.AskHello():
                return self._name
            case control.AskStatus():
                return self._status()
            case control.AskMetrics():
                return measure(self._status(), self._cluster, self.history)
            case control.AskEvents(follow=follow):
                return await self._tell_events(tell, follow=follow)
            case control.OrderReload():
                return await self._reload()
            case control.OrderScale():
                return await self._scale(request)
            case control.OrderDrain(worker=number):
                return await self._drain(number)
            case control.OrderStop():
                return await self._stop_all()
            case control.AskStacks(worker=number):
                return await self._stacks(number)

    def _status(self) -> control.ServiceStatus:
        now = self._loop.time()
        age = now - self._begun
        return survey(self._name, self._cluster, self._keeper, self.history, self._started_at, age, now)

    async def _tell_events(self, tell: Callable[[ControlEvent], None], *, follow: bool) -> object:
        if not follow:
            return control.EventsResult(events=tuple(self._events))
        for event in tuple(self._events):
            tell(event)
        await asyncio.shield(self._end)
        return control.EventsResult(events=())

    async def _reload(self) -> object:
        self._check_running()
        log.info("control: reloading")
        try:
            generation = await self._until(self._keeper.order_reload())
        except ReloadFailed as error:
            raise ControlError("failed", error.report) from None
        return control.ReloadResult(generation=generation)

    async def _scale(self, request: control.OrderScale) -> object:
        self._check_running()
        before = self._keeper.size
        wanted = control.size_after(request, before)
        log.info("control: scaling from %d to %d", before, wanted)
        limit = self._limit(shrinks=wanted < before)
        scaling = _Scaling(self._cluster, self._keeper, wanted, self._loop.create_future())
        self._scalings.append(scaling)
        timer = self._loop.call_later(limit, scaling.be_late, limit)
        try:
            self._keeper.scale(wanted)
            scaling.look(None, was_ready=False)
            await self._until(scaling.done)
        finally:
            timer.cancel()
            self._scalings.remove(scaling)
        return control.ScaleResult(size=wanted, before=before)

    def _limit(self, *, shrinks: bool) -> float:
        """How long a scaling may take, in seconds."""
        terms = self._cluster._runtime.terms
        limit = self._keeper._supervisor.boot_timeout or RELOAD_SECONDS
        return limit + (terms.grace + terms.shutdown_timeout if shrinks else 0.0)

    async def _drain(self, number: int) -> object:
        self._check_running()
        (worker,) = self._chosen(number)
        log.info("control: draining worker %d", number)
        self._keeper.drain(number)
        status: ExitStatus = await self._until(asyncio.ensure_future(worker.wait()))
        if status.signal is signal.SIGKILL:
            problem = f"worker {number} did not finish within its grace, and was killed"
            raise ControlError("failed", problem)
        return control.DrainResult(worker=number, status=str(status))

    async def _stop_all(self) -> object:
        if self._keeper.end.done():  # the pool has just ended by itself
            return None
        log.info("control: stopping")
        self._stop()
        await asyncio.wait({self._keeper.end, self._end}, return_when=asyncio.FIRST_COMPLETED)
        return None

    def _chosen(self, number: int | None) -> list[Worker]:
        """The worker of that id, or all of the pool's."""
        workers = [worker for worker in self._cluster.workers.values() if self._keeper.owns(worker.id)]
        found = [worker for worker in workers if number in (None, worker.id)]
        if number is not None and not found:
            there = ", ".join(str(worker.id) for worker in workers) or "none"
            shown = number if abs(number) < 10**18 else "of that number"
            raise ControlError("unknown_worker", f"there is no worker {shown}; the workers are: {there}")
        return found

    async def _stacks(self, number: int | None) -> object:
        """Ask one worker after the other: their outputs would mix otherwise."""
        workers = self._chosen(number)
        pause = min(_BETWEEN_STACKS, _ALL_STACKS / max(len(workers), 1))
        found: list[control.StacksOf] = []
        for worker in workers:
            if found:
                await asyncio.sleep(pause)
            found.append(self._stacks_of(worker))
        return control.StacksResult(workers=tuple(found))

    def _stacks_of(self, worker: Worker) -> control.StacksOf:
        process = driver_of(worker).process
        if process.pid is None or not process.hears(STACKS):
            problem = "it is starting or ending, or its program handles that signal"
            return control.StacksOf(worker=worker.id, pid=process.pid, problem=problem)
        log.info("control: worker %d (pid %d) prints its stacks", worker.id, process.pid)
        printed_to = self._stacks_file() or stderr_of(process.pid)
        process.signal(STACKS)
        if process.hears(TASKS):
            process.signal(TASKS)
        return control.StacksOf(worker=worker.id, pid=process.pid, printed_to=printed_to)

    def _check_running(self) -> None:
        if self._keeper.size == 0:
            raise ControlError("stopping", "the service is being stopped")

    async def _until(self, what: Awaitable[T]) -> T:
        """The result of `what`; a ControlError if the service ends first. A cancellation stops here."""
        future = asyncio.ensure_future(what)
        waiting: set[asyncio.Future[Any]] = {future, self._end}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise ControlError("stopping", "the service was stopped before that was done")
        return future.result()


class _Scaling:
    """Waits until the pool has the number of workers that a client has asked for."""

    def __init__(self, cluster: Cluster, keeper: Keeper, wanted: int, done: asyncio.Future[None]) -> None:
        self._cluster = cluster
        self._keeper = keeper
        self._wanted = wanted
        self._first = cluster._book.last_id + 1
        self.done = done
        done.add_done_callback(lambda done: done.cancelled() or done.exception())  # the client may have gone

    def look(self, event: Event | None, *, was_ready: bool) -> None:
        """Check the workers after `event`."""
        if self._keeper.size != self._wanted:
            settle(
                self.done,
                ControlError("failed", f"another request has scaled to {self._keeper.size} meanwhile"),
            )
            return
        if isinstance(event, Exited) and event.worker.id >= self._first and not was_ready:
            problem = f"worker {event.worker.id} ended before it was ready: {event.status}"
            settle(self.done, ControlError("failed", f"{problem}; its slot is filled again later"))
            return
        workers = [worker for worker in self._cluster.workers.values() if self._keeper.owns(worker.id)]
        ready = {worker.slot for worker in workers if worker.is_ready}
        gone = event.worker if isinstance(event, Exited) else None
        left = any(worker.slot >= self._wanted for worker in workers if worker is not gone)
        missing = set(range(self._wanted)) - ready
        if not left and not missing:
            settle(self.done, None)
        elif not left and missing.issubset(self._keeper.failed_slots):
            slots = ", ".join(map(str, sorted(missing)))
            problem = f"{len(ready)} of {self._wanted} workers are ready; failed slots: {slots}"
            settle(self.done, ControlError("failed", f"{problem}, where workers end too often"))

    def be_late(self, limit: float) -> None:
        """Fail: the scaling takes too long."""
        workers = [worker for worker in self._cluster.workers.values() if self._keeper.owns(worker.id)]
        ready = sum(worker.is_ready for worker in workers if worker.slot < self._wanted)
        problem = f"{ready} of {self._wanted} workers are ready after {limit:g} s"
        settle(self.done, ControlError("failed", f"{problem}; the service keeps trying"))


def _told(event: Event) -> ControlEvent:
    """The event as the control protocol has it."""
    fields: dict[str, Any] = {"event": _snake(type(event).__name__), "seq": event.seq, "at": event.at}
    worker: Worker | None = getattr(event, "worker", None)
    if isinstance(event, WorkerEvent) and worker is not None:
        fields |= {"worker": worker.id, "slot": worker.slot, "pid": worker.pid}
        fields["generation"] = worker.generation
    fields["generation"] = getattr(event, "generation", fields.get("generation"))
    fields["voluntary"] = getattr(event, "voluntary", None)
    if isinstance(event, Listening):
        fields["text"] = as_url(event.address, "udp" if event.kind.name == "SOCK_DGRAM" else "tcp")
    elif isinstance(event, Stalled):
        fields["text"] = f"{event.seconds:.1f} s"
    else:
        rest = [getattr(event, name) for name in event.__struct_fields__ if name not in _KNOWN]
        fields["text"] = "; ".join(_text(value) for value in rest if value is not None) or None
    if fields["text"] is not None:  # a path need not be valid text
        fields["text"] = fields["text"].encode("utf-8", "backslashreplace").decode()
    return msgspec.convert(fields, ControlEvent)


def _text(value: object) -> str:
    return value.report if isinstance(value, ReloadFailed) else str(value)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
