"""Drives one worker: its process, and the connection to it.

It translates what happens into inputs of `core.lifecycle`, and carries out the actions in order. Invariant:
once the worker is dead, none of its processes, descriptors, timers or tasks is left.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Final, TypeAlias, cast

import msgspec

from everycore import events
from everycore.aio.deadline import Deadline
from everycore.aio.emitter import Emitter
from everycore.aio.mailbox import Mailbox
from everycore.aio.steps import take_all
from everycore.core import lifecycle, wire
from everycore.core.lifecycle import Life, LifeAction, LifeInput
from everycore.errors import ProtocolError
from everycore.model import ExitStatus, State, WorkerIdentity
from everycore.primary import spawner
from everycore.primary.beginning import begin
from everycore.primary.eventlog import WorkerLog
from everycore.primary.farewell import Farewell
from everycore.primary.ipc import Ipc
from everycore.primary.listeners.subscriber import Serving
from everycore.primary.process import WorkerProcess
from everycore.primary.readiness import WorkerReadiness
from everycore.primary.runtime import Runtime
from everycore.primary.seat import BoardSeat
from everycore.system.processes import Spawned
from everycore.worker_face import Worker

log = logging.getLogger("everycore.primary")

#: Seconds after which a worker that does not start any more counts as gone. A program that forks whenever a
#: worker is gone does not spin meanwhile.
WITHHELD: Final = 0.1

Told: TypeAlias = wire.ReopenLogs | wire.MayHandOn | wire.TakeOver


class WorkerDriver:
    """One worker, from its spawn to its `Exited`. `face` is the worker that users see."""

    def __init__(self, runtime: Runtime, identity: WorkerIdentity, request: spawner.SpawnRequest) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._switchboard = runtime.switchboard
        self._request = request
        self.identity = identity
        self.user = spawner.user_of(request.settings)
        self.seat = BoardSeat(identity.slot, runtime.boards, self.user, identity.row)
        self.life = Life()
        self.readiness = WorkerReadiness(self.life, self._on_ready, is_launching=runtime.terms.has_launcher)
        self.face = Worker(self)
        self.process: WorkerProcess = WorkerProcess(runtime.loop, runtime.system)
        self.exited: asyncio.Future[ExitStatus] = runtime.loop.create_future()
        self.mailbox: Mailbox
        self._ipc: Ipc
        self._log: WorkerLog = WorkerLog(runtime.log, self.face)
        self._deadline = Deadline(runtime.loop, self._on_deadline)
        self._status: ExitStatus | None = None
        self._farewell = Farewell(self._loop, self._switchboard, self.id, self._ask, partial(_cuts_off, self))
        self.grace = runtime.terms.grace

    @property
    def id(self) -> int:
        """The worker's number."""
        return self.identity.id

    @property
    def listeners(self) -> Emitter:
        """The listeners of this worker's events."""
        return self._log.listeners

    # --- birth --------------------------------------------------------------------------------------------

    def spawn(self) -> None:
        """Start the process. If the kernel refuses, the refusal becomes the worker's exit.

        Raises ConfigurationError for a setting that cannot work, if the request says so.
        """
        begun = begin(self._runtime, self._request, self)
        self.process = begun.process
        self._connect(begun.child)
        if not begun.is_awaited:
            # `Forked` comes after `fork()` has returned, and before everything that the worker sends. The
            # exit of a spawn that failed follows immediately.
            self._loop.call_soon(self._announce, begun.error)

    def on_born(self, spawned: Spawned) -> None:
        """As `Awaiting.on_born`."""
        self.process.born(spawned)
        self._announce(None)

    def on_unborn(self, error: OSError) -> None:
        """As `Awaiting.on_unborn`."""
        self.process.unborn()
        self._announce(error)

    def withhold(self) -> None:
        """Start no process, because the cluster ends. The worker leaves at once."""
        self._connect(None)
        self._happen(LifeInput.DISCONNECT, grace=self.grace)
        error = OSError(errno.ECANCELED, "the cluster is shutting down")
        self._loop.call_later(WITHHELD, self._announce, error)

    def _connect(self, child: spawner.Child | None) -> None:
        self._ipc = Ipc(self._runtime, self, self._request.settings, self._log, child)
        self.mailbox = self._ipc.mailbox

    def _announce(self, error: OSError | None) -> None:
        self._log.emit(events.Forked)
        if error is not None:
            self._end(ExitStatus(error=error))
            return
        self._ipc.open()
        self.process.watch(self._end)

    # --- what happens -------------------------------------------------------------------------------------

    def on_joined(self) -> None:
        """Note that the worker has joined."""
        self.readiness.is_launching = False
        self._happen(LifeInput.JOINED)

    def on_lost(self, error: Exception | None) -> None:
        """Note that the worker's channel has ended. `error`: why the primary gave it up, if it did."""
        if error is not None:
            self._happen(LifeInput.BROKE_PROTOCOL)
        self._happen(LifeInput.CHANNEL_LOST, shutdown=self._runtime.terms.shutdown_timeout)

    def _end(self, status: ExitStatus) -> None:
        self._status = status
        self._ipc.read_to_the_end()
        self._happen(LifeInput.EXITED)

    def _happen(self, what: LifeInput, **seconds: float) -> None:
        self._perform(self.life.handle(what, self._loop.time(), **seconds))
        self._deadline.set(self.life.deadline)

    def _on_deadline(self) -> None:
        if self.life.state is not State.DEAD:
            _tell_overdue(self.id, is_starting=self.readiness.is_starting)
        self._happen(LifeInput.OVERDUE)

    # --- what is to be done -------------------------------------------------------------------------------

    def _perform(self, todo: tuple[LifeAction, ...]) -> None:
        take_all((partial(self._steps[step], self) for step in todo), f"worker {self.identity.id}")

    def _ask_to_leave(self) -> None:
        self._farewell.begin(self.grace)

    def _ask(self) -> None:
        if not self._ipc.is_attached:
            # No loop of everycore reads the channel yet. A signal asks a program of threads and plain
            # sockets. The signal goes first: a loop that is about to attach might read the message at once,
            # leave, and remove its handlers before the signal comes.
            self.process.signal(signal.SIGTERM)
        deadline = self.life.deadline
        left = self.grace if deadline is None else deadline - lifecycle.KILL_MARGIN - self._loop.time()
        self._ipc.tell(wire.Disconnect(max(min(self.grace, left), 0.0), self._runtime.spares_idle))

    def tell(self, message: Told, fds: Sequence[int] = ()) -> None:
        """As `Ipc.tell`."""
        self._ipc.tell(message, fds)

    def _leave_rotation(self) -> None:
        self.readiness.end()
        self._runtime.exchange.leaves(self)
        finishes = self.life.state is State.DRAINING and not self._ipc.is_ending
        self._farewell.leave_rotation(finishes=finishes)

    def _close_channel(self) -> None:
        self._runtime.exchange.gone(self)
        self._ipc.close()

    def _emit_exited(self) -> None:
        status = self._status
        assert status is not None
        # Only now: open requests fail with the status with which the worker ended.
        self.mailbox.peer_status = status
        steps: list[Callable[[], object]] = [
            self.mailbox.close,
            self.process.abort_stdin,
            partial(self._runtime.boards.release, self.user, self.identity.row),
            partial(self._runtime.leave_tally, self.identity.tally, self.id),
            partial(self._runtime.book.remove, self),
            partial(self._switchboard.postponed.has_ended, self.id),
            partial(self._log.emit, events.Exited, status=status, voluntary=self.life.voluntary),
        ]
        if not self.exited.done():
            steps.append(partial(self.exited.set_result, status))
        take_all(steps, f"worker {self.identity.id}")

    _steps: ClassVar[Mapping[LifeAction, Callable[[WorkerDriver], object]]] = {
        LifeAction.ASK_TO_LEAVE: _ask_to_leave,
        LifeAction.LEAVE_ROTATION: _leave_rotation,
        LifeAction.RELEASE: lambda self: self._switchboard.remove(self.id, voluntary=self.life.voluntary),
        LifeAction.CLOSE_CHANNEL: _close_channel,
        LifeAction.DIE: lambda self: self.life.die(),
        LifeAction.EMIT_ONLINE: lambda self: self._log.emit(events.Online),
        LifeAction.EMIT_DISCONNECTED: lambda self: self._log.emit(events.Disconnected),
        LifeAction.EMIT_EXITED: _emit_exited,
        LifeAction.KILL: lambda self: self.process.signal(signal.SIGKILL),
    }

    # --- listening ----------------------------------------------------------------------------------------

    @property
    def may_serve(self) -> bool:
        """Whether the worker may get listeners: it has not been asked to leave."""
        return self.life.may_serve

    def on_serving(self, listener: Serving) -> None:
        """Note that a listener serves the worker."""
        self._happen(LifeInput.LISTENED)
        self._log.emit(
            events.Listening,
            address=listener.socket.real,
            family=socket.AddressFamily(listener.socket.family),
            kind=socket.SocketKind(listener.listing.key.kind),
            fd=listener.listing.key.fd,
        )
        self.readiness.listens()

    def _on_ready(self) -> None:
        self._switchboard.set_ready(self.identity.id)
        self._runtime.exchange.ready(self)
        self._log.emit(events.Ready)

    # --- what listeners and the link tell -----------------------------------------------------------------

    def on_finished(self) -> None:
        """Note that a listener has given the worker every connection that had come."""
        self._farewell.on_finished()

    def on_violation(self, error: ProtocolError) -> None:
        """Take the channel from the worker, which broke the protocol of a belt or the link."""
        self._ipc.break_off(error)

    def on_report(self, body: bytes) -> None:
        """Deliver a message that does not wait for the channel."""
        self.mailbox.deliver(wire.Note(body), ())

    def on_leave(self) -> None:
        """Note that the worker leaves now by itself, so it need not be asked."""
        self._farewell.is_spared = True
        self._happen(LifeInput.LEAVE, grace=self.grace)
        self._farewell.cancel()

    # --- orders -------------------------------------------------------------------------------------------

    def disconnect(self, grace: float) -> None:
        """Ask the worker to finish within `grace` seconds and leave. A moment after that it is killed."""
        grace = self.readiness.grace(grace)
        self.grace = min(self.grace, grace)
        self._happen(LifeInput.DISCONNECT, grace=grace)
        self.process.withdraw()
        if self._farewell.lasts:  # perhaps with less time than at first
            self._ask_to_leave()

    def account(self) -> tuple[int, int]:
        """The connections handed to the worker so far, and those that it has not acknowledged."""
        handed_over, outstanding = self._switchboard.account(self.identity.id)
        # If workers may accept by themselves, only the board has the count.
        is_shared = self._switchboard.settings.policy == "shared"
        shared = self._runtime.boards.accepted(self.user, self.identity.row) if is_shared else 0
        # Not the sum: a loop of everycore that is handed connections counts them on the board too.
        return max(handed_over, shared), outstanding

    @property
    def is_closed(self) -> bool:
        """Whether the streams of a dead worker are read to their end, or closed."""
        return self.process.is_closed

    def close(self) -> None:
        """After the end: close the streams that were not read to their end."""
        self.process.close()

    def abandon(self) -> None:
        """In a forked child: close the child's copies, send nothing, and leave the parent's loop alone."""
        self.process.abandon()
        self._ipc.abandon()

    def descriptors(self) -> list[int]:
        """The descriptors of this worker's channel, link and process."""
        return [self.process.fileno(), *self._ipc.filenos()]


def _cuts_off(worker: WorkerDriver) -> bool:
    """Whether the worker may close connections unread when it is asked: a program asked by a signal may."""
    return worker.seat.open > 0 and not worker._ipc.is_attached


def start_worker(runtime: Runtime, request: spawner.SpawnRequest, *, withholds: bool) -> Worker:
    """Give a new worker its id, its slot and its row of the board, and spawn it.

    withholds: start no process, because the cluster ends. If this raises, it leaves nothing behind.
    """
    book, boards = runtime.book, runtime.boards
    settings = runtime.molds.adapt(request.settings)
    request = msgspec.structs.replace(request, settings=settings)
    user = spawner.user_of(request.settings)
    slot = book.free_slot() if request.slot is None else request.slot
    number = book.last_id + 1
    tally = 0 if withholds else runtime.allot_tally(number)
    identity = WorkerIdentity(number, slot, request.generation, boards.allot(user), tally)
    driver = WorkerDriver(runtime, identity, request)
    try:
        if withholds:
            driver.withhold()
        else:
            driver.spawn()
    except BaseException:
        boards.release(user, identity.row)
        runtime.leave_tally(tally, number)
        raise
    book.add(driver)
    return driver.face


def _tell_overdue(worker: int, *, is_starting: bool) -> None:
    if is_starting:  # it has served no client yet
        log.info("worker %d was still starting: killed", worker)
    else:
        log.warning("worker %d did not leave in time: killed", worker)


def driver_of(worker: Worker) -> WorkerDriver:
    """The driver behind `worker`, for the primary's own modules."""
    return cast("WorkerDriver", worker._driver)
