"""Drives one worker: its process, its channel and its link.

Translates what happens into inputs of `core.lifecycle`, and does what that says, in order. Invariant: once
the worker is dead nothing of it is left: no process, descriptor, timer or task.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from everycore import events
from everycore.aio.channel import Channel
from everycore.aio.deadline import Deadline
from everycore.aio.emitter import Emitter
from everycore.aio.mailbox import Mailbox
from everycore.aio.outbox import NoPeer
from everycore.aio.steps import take_all
from everycore.core import lifecycle, wire
from everycore.core.lifecycle import Do, Input, Life
from everycore.errors import ConfigurationError, ProtocolError
from everycore.model import ExitStatus, State
from everycore.primary import spawner
from everycore.primary.eventlog import WorkerLog
from everycore.primary.farewell import Farewell
from everycore.primary.linkdesk import LinkDesk
from everycore.primary.listeners.subscriber import Serving
from everycore.primary.process import WorkerProcess
from everycore.primary.runtime import Runtime
from everycore.primary.worker import Worker
from everycore.settings import Settings
from everycore.system.descriptors import close_all

log = logging.getLogger("everycore.primary")

#: The part of a worker's grace for which it is given those who had come before it was asked to leave.
FINISH_SHARE: Final = 0.5
#: After so many seconds a worker that does not start any more has left: a program that forks whenever one
#: has left does not spin meanwhile.
WITHHELD: Final = 0.1


class WorkerDriver:
    """One worker, from its spawn to its `Exited`. `face` is the worker as users see it."""

    def __init__(self, runtime: Runtime, seat: spawner.Seat, settings: Settings) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._switchboard = runtime.switchboard
        self._settings = settings
        self.seat = seat
        self.life = Life()
        self.is_ready = False
        self.face = Worker(self)
        self.process = WorkerProcess(runtime.loop, runtime.system)
        self.exited: asyncio.Future[ExitStatus] = runtime.loop.create_future()
        self.mailbox: Mailbox
        self._log = WorkerLog(runtime.log, self.face)
        self._channel: Channel | None = None
        self._desk: LinkDesk | None = None
        self._deadline = Deadline(runtime.loop, self._on_deadline)
        #: A loop of ours reads the worker's channel.
        self._is_attached = False
        self._status: ExitStatus | None = None
        self.holds_ready = False
        #: Its channel or its process has ended.
        self._is_ending = False
        self._leaves_by_itself = False
        self._farewell = Farewell(runtime.loop, self._switchboard, seat.id, self._ask)
        self.grace = runtime.terms.grace

    @property
    def id(self) -> int:
        """The worker's number."""
        return self.seat.id

    @property
    def listeners(self) -> Emitter:
        """Those of this worker's events."""
        return self._log.listeners

    # --- birth --------------------------------------------------------------------------------------------

    def spawn(self, env: Mapping[str, str | None] | None, *, raises: bool = True) -> None:
        """Start the process. A refusal of the kernel becomes the worker's exit.

        A bad setting is raised, unless not `raises`: then that becomes its exit too.
        """
        runtime = self._runtime
        error: OSError | None = None
        try:
            child = spawner.spawn(
                self._settings, self.seat, runtime.terms, runtime.board.fd, env, runtime.system
            )
        except (OSError, ConfigurationError) as exc:
            if raises and isinstance(exc, ConfigurationError):
                raise
            error = exc if isinstance(exc, OSError) else OSError(errno.EINVAL, str(exc))
            self._connect(NoPeer())  # it may have been for want of descriptors
        else:
            self.process = WorkerProcess(
                self._loop, runtime.system, child.process, leads_group=runtime.terms.new_group
            )
            self._desk = LinkDesk(self._loop, child.link, self, self._switchboard, child.permits)
            self._connect(child.channel)
        # `Forked` comes after `fork()` has returned, and before all that the worker says; a spawn that failed
        # is over right behind it.
        self._loop.call_soon(self._announce, error)

    def withhold(self) -> None:
        """Start no process: the cluster ends. The worker has left as soon as it would have been there."""
        self._connect(NoPeer())
        self._happen(Input.DISCONNECT, grace=self.grace)
        error = OSError(errno.ECANCELED, "the cluster is shutting down")
        self._loop.call_later(WITHHELD, self._announce, error)

    def _connect(self, sock: socket.socket | NoPeer) -> None:
        self._channel = Channel(
            sock,
            loop=self._loop,
            peer=f"worker {self.seat.id}",
            decode=wire.decode_to_primary,
            max_message=self._runtime.terms.max_message,
            on_message=self._on_message,
            on_lost=self._on_channel_lost,
        )
        self._channel.pause_reading()
        self.mailbox = Mailbox(
            self._channel,
            loop=self._loop,
            serialization=self._settings.serialization,
            make_message=self._log.message,
        )

    def _announce(self, error: OSError | None) -> None:
        self._log.emit(events.Forked)
        if error is not None:
            self._end(ExitStatus(error=error))
            return
        if self._channel is not None:
            self._channel.resume_reading()
        if self._desk is not None:
            self._desk.open()
        self.process.watch(self._end)

    # --- what happens -------------------------------------------------------------------------------------

    def _on_message(self, message: Any, fds: tuple[int, ...]) -> None:
        """One frame of the channel. An error raised here costs the worker its channel."""
        match message:
            case wire.Note() | wire.Ask() | wire.Answer() | wire.Failure() | wire.Took():
                self.mailbox.deliver(message, fds)
                return
            case wire.Joined():
                self._happen(Input.JOINED)
            case wire.Attached():
                self._is_attached = True
            case wire.Listen():
                self._listen(message)
            case wire.CanHandOn(most):
                self._runtime.exchange.can(self, most)
            case wire.HandOn():
                self._runtime.exchange.hand_on(self, fds)
                return
            case wire.Drained():
                pass  # the end of the channel follows, and says it all
        if fds:
            close_all(fds)
            msg = f"{type(message).__name__} came with {len(fds)} descriptors"
            raise ProtocolError(msg)

    def _on_channel_lost(self, error: Exception | None) -> None:
        if error is None:
            self._hear_last_words()
        else:
            log.error("worker %d: %s; giving up its channel", self.seat.id, error)
            self._happen(Input.BROKE_PROTOCOL)
        self._happen(Input.CHANNEL_LOST, shutdown=self._runtime.terms.shutdown_timeout)

    def _hear_last_words(self) -> None:
        self._is_ending = True
        if self._desk is not None:
            self._desk.hear_last_words()

    def _end(self, status: ExitStatus) -> None:
        self._status = status
        self._hear_last_words()
        # In the state that the worker had when it said this: it may just have joined.
        if self._channel is not None and not self._channel.is_closed:
            self._channel.read_to_end()
        self._happen(Input.EXITED)

    def _happen(self, what: Input, **seconds: float) -> None:
        self._perform(self.life.handle(what, self._loop.time(), **seconds))
        self._deadline.set(self.life.deadline)

    def _on_deadline(self) -> None:
        if self.life.state is not State.DEAD:
            log.warning("worker %d did not leave in time: killed", self.seat.id)
        self._happen(Input.OVERDUE)

    # --- what is to be done -------------------------------------------------------------------------------

    def _perform(self, todo: tuple[Do, ...]) -> None:
        take_all((partial(self._steps[step], self) for step in todo), f"worker {self.seat.id}")

    def _ask_to_leave(self) -> None:
        self._farewell.begin(self.grace * FINISH_SHARE)

    def _ask(self) -> None:
        if not self._is_attached:
            # No loop of ours hears a message: a program of threads and plain sockets is asked by a signal.
            # And before the message: a loop that we have not heard of yet may read that at once, leave, and
            # have taken its handlers with it when the signal comes.
            self.process.signal(signal.SIGTERM)
        if self._channel is not None:
            deadline = self.life.deadline
            left = self.grace if deadline is None else deadline - lifecycle.KILL_MARGIN - self._loop.time()
            self._channel.post(wire.Disconnect(max(min(self.grace, left), 0.0), self._runtime.spares_idle))

    def tell(self, message: wire.MayHandOn | wire.TakeOver, fds: Sequence[int] = ()) -> None:
        """Send a message on its channel, which owns the descriptors from here on."""
        if self._channel is None:
            close_all(fds)
        else:
            self._channel.post(message, fds)

    def _leave_rotation(self) -> None:
        self.is_ready = False
        self._runtime.exchange.leaves(self)
        self._farewell.forget()
        finishes = self.life.state is State.DRAINING and not self._is_ending
        if finishes and not self._leaves_by_itself:
            self._switchboard.finish(self.seat.id)
        else:
            self._switchboard.rest(self.seat.id, finishes=finishes)

    def _release(self) -> None:
        self._switchboard.remove(self.seat.id, voluntary=self.life.voluntary)

    def _close_channel(self) -> None:
        self._runtime.exchange.gone(self)
        if self._desk is not None:
            self._desk.close()
        if self._channel is not None:
            self._channel.close()

    def _emit_online(self) -> None:
        self._log.emit(events.Online)

    def _emit_disconnected(self) -> None:
        self._log.emit(events.Disconnected)

    def _emit_exited(self) -> None:
        status = self._status
        assert status is not None
        # Only now: requests that were open fail with the way the worker ended.
        self.mailbox.peer_status = status
        steps: list[Callable[[], object]] = [
            self.mailbox.close,
            self.process.abort_stdin,
            partial(self._runtime.board.release, self.seat.row),
            partial(self._runtime.book.remove, self),
            partial(self._log.emit, events.Exited, status=status, voluntary=self.life.voluntary),
        ]
        if not self.exited.done():
            steps.append(partial(self.exited.set_result, status))
        take_all(steps, f"worker {self.seat.id}")

    def _die(self) -> None:
        self.life.die()

    def _kill(self) -> None:
        self.process.signal(signal.SIGKILL)

    _steps = {  # noqa: RUF012 - a constant table
        Do.ASK_TO_LEAVE: _ask_to_leave,
        Do.LEAVE_ROTATION: _leave_rotation,
        Do.RELEASE: _release,
        Do.CLOSE_CHANNEL: _close_channel,
        Do.DIE: _die,
        Do.EMIT_ONLINE: _emit_online,
        Do.EMIT_DISCONNECTED: _emit_disconnected,
        Do.EMIT_EXITED: _emit_exited,
        Do.KILL: _kill,
    }

    # --- listening ----------------------------------------------------------------------------------------

    @property
    def may_serve(self) -> bool:
        """Whether it may get listeners: nobody has asked it to leave."""
        return self.life.may_serve

    def _listen(self, request: wire.Listen) -> None:
        assert self._channel is not None
        assert self._desk is not None
        self._desk.hear()
        if self.life.may_serve and not self._is_ending:  # else its loop waits for no answer, but for the end
            self._channel.post(*self._desk.answer_listen(request))

    def on_serving(self, listener: Serving) -> None:
        """The worker is served by a listener."""
        self._happen(Input.LISTENED)
        self._log.emit(
            events.Listening,
            address=listener.socket.real,
            family=socket.AddressFamily(listener.socket.family),
            kind=socket.SocketKind(listener.listing.key.kind),
            fd=listener.listing.key.fd,
        )
        if not self.holds_ready:
            self._become_ready()

    def _become_ready(self) -> None:
        if self.is_ready or not self.life.may_serve:
            return
        self.is_ready = True
        self._switchboard.set_ready(self.seat.id)
        self._runtime.exchange.ready(self)
        self._log.emit(events.Ready)

    # --- what listeners and the link tell -----------------------------------------------------------------

    def on_finished(self) -> None:
        """A listener has given the worker all who had come."""
        self._farewell.on_finished()

    def on_violation(self, error: ProtocolError) -> None:
        """The worker broke the protocol of a belt or the link: it loses its channel."""
        if self._channel is not None and not self._channel.is_closed:
            self._channel.close()
            self._on_channel_lost(error)

    def on_report(self, body: bytes) -> None:
        """A message that does not wait for the channel."""
        self.mailbox.deliver(wire.Note(body), ())

    def on_hold_ready(self) -> None:
        """The worker is going to say when it is ready."""
        self.holds_ready = not self.is_ready

    def on_ready(self) -> None:
        """The worker says that it is ready."""
        self.holds_ready = False
        self._become_ready()

    def on_leave(self) -> None:
        """The worker says that it leaves: now, so it need not be asked any more."""
        self._leaves_by_itself = True
        self._happen(Input.LEAVE, grace=self.grace)
        self._farewell.cancel()

    # --- orders -------------------------------------------------------------------------------------------

    def disconnect(self, grace: float) -> None:
        """Ask the worker to finish within `grace` seconds and leave; killed a moment after that."""
        self.grace = min(self.grace, grace)
        self._happen(Input.DISCONNECT, grace=grace)
        if self._farewell.lasts:  # maybe in less time than the first time
            self._ask_to_leave()

    def account(self) -> tuple[int, int]:
        """Connections handed to the worker so far, and those it has not acknowledged."""
        handed_over, outstanding = self._switchboard.account(self.seat.id)
        if self._switchboard.is_shared:
            handed_over = self._runtime.board.accepted(self.seat.row)
        return handed_over, outstanding

    @property
    def open(self) -> int:
        """Connections that the worker has now."""
        return self._runtime.board.open(self.seat.row)

    @property
    def is_closed(self) -> bool:
        """Whether the streams of a dead worker were read to their end, or closed."""
        return self.process.is_closed

    def close(self) -> None:
        """After the end: let go of the streams that nobody read to their end."""
        self.process.close()

    def abandon(self) -> None:
        """In a forked child: close our copies, and say nothing. The loop is the parent's, and not touched."""
        self.process.abandon()
        if self._desk is not None:
            self._desk.abandon()
        if self._channel is not None:
            self._channel.abandon()

    def descriptors(self) -> list[int]:
        """The numbers that belong to this worker's channel, link and process."""
        return [owner.fileno() for owner in (self.process, self._desk, self._channel) if owner is not None]
