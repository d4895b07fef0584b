"""Drives one worker: its process, its channel and its link.

Job: translate what happens into inputs of `core.lifecycle`, and do what that says, in order. Invariant:
once the worker is dead nothing of it is left: no process, descriptor, timer or task. Must not import the
worker's side.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from everycore import events
from everycore.aio.channel import Channel
from everycore.aio.mailbox import Mailbox
from everycore.aio.outbox import NoPeer
from everycore.aio.steps import take_all
from everycore.core import wire
from everycore.core.lifecycle import KILL_MARGIN, Do, Input, Life
from everycore.core.permits import Permit, permit_of
from everycore.core.wire import LINK_NUMBER
from everycore.errors import ProtocolError
from everycore.model import ExitStatus, State
from everycore.primary import desk, spawner
from everycore.primary.pipes import PipeReader, PipeWriter
from everycore.primary.switchboard import Grant, Switchboard
from everycore.system import belt, processes
from everycore.system.board import PrimaryBoard
from everycore.system.descriptors import close_all, release
from everycore.system.sockets import describe, off_the_wire

if TYPE_CHECKING:
    from everycore.core.listeners import Entry
    from everycore.primary.worker import Worker
    from everycore.settings import Settings

log = logging.getLogger("everycore")

#: Requests on the link answered at once, before one on the channel.
_LINK_BUDGET = 16
#: The part of a worker's grace for which it is given those who had come before it was asked to leave.
FINISH_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Home:
    """What a driver needs of its cluster."""

    loop: asyncio.AbstractEventLoop
    switchboard: Switchboard
    board: PrimaryBoard
    terms: spawner.Terms
    emit: Callable[..., None]
    gone: Callable[[Worker], None]
    next_event: Callable[[], tuple[int, float]]


class WorkerDriver:
    """One worker, from its spawn to its `Exited`."""

    def __init__(self, home: Home, face: Worker, seat: spawner.Seat, settings: Settings) -> None:
        self._home = home
        self._loop = home.loop
        self._face = face
        self._settings = settings
        self.seat = seat
        self.life = Life()
        self._status: ExitStatus | None = None
        #: A loop of ours reads the worker's channel.
        self._is_attached = False
        self.is_ready = False
        self.pid: int | None = None
        self.stdin: PipeWriter | None = None
        self.stdout: PipeReader | None = None
        self.stderr: PipeReader | None = None
        self.exited: asyncio.Future[ExitStatus] = home.loop.create_future()
        self.mailbox: Mailbox
        self._channel: Channel | None = None
        self._link: socket.socket | None = None
        self._pidfd = -1
        self._deadline: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._holds_ready = False
        #: Its channel or its process has ended: what is still said on the link are last words.
        self._is_ending = False
        self._leaves_by_itself = False
        #: Until it is asked to leave, while it still serves those who had come before.
        self._finishing: asyncio.TimerHandle | None = None
        self._finish_by = math.inf
        #: The number of the last request on the link that was granted, and the listener.
        self._last_grant: tuple[bytes, int] | None = None
        self._grace = home.terms.grace
        #: What the worker may listen on; None: whatever the primary may.
        self._permits: frozenset[Permit] | None = None

    # --- birth --------------------------------------------------------------------------------------------

    def spawn(self, env: Mapping[str, str | None] | None) -> None:
        """Start the process. A refusal of the kernel becomes the worker's exit; a bad setting is raised."""
        error: OSError | None = None
        try:
            child = spawner.spawn(self._settings, self.seat, self._home.terms, self._home.board.fd, env)
        except OSError as exc:
            error = exc
            self._connect(NoPeer())  # it may have been for want of descriptors
        else:
            self.pid, self._pidfd, self._link = child.process.pid, child.process.pidfd, child.link
            self._permits = child.permits
            self._connect(child.channel)
            self._connect_pipes(child.process)
        # `Forked` comes after `fork()` has returned, and before all that the worker says; a spawn that failed
        # is over right behind it.
        self._loop.call_soon(self._announce, error)

    def _connect(self, sock: socket.socket | NoPeer) -> None:
        self._channel = Channel(
            sock,
            loop=self._loop,
            peer=f"worker {self.seat.id}",
            decode=wire.decode_to_primary,
            max_message=self._home.terms.max_message,
            on_message=self._on_message,
            on_lost=self._on_channel_lost,
        )
        self._channel.pause_reading()
        self.mailbox = Mailbox(
            self._channel,
            loop=self._loop,
            serialization=self._settings.serialization,
            make_message=self._make_message,
        )

    def _connect_pipes(self, process: processes.Spawned) -> None:
        stdin, stdout, stderr = process.pipes
        self.stdin = PipeWriter(self._loop, stdin) if stdin else None
        self.stdout = PipeReader(self._loop, stdout) if stdout else None
        self.stderr = PipeReader(self._loop, stderr) if stderr else None

    def _announce(self, error: OSError | None) -> None:
        self._home.emit(events.Forked, worker=self._face)
        if error is not None:
            self._end(ExitStatus(error=error))
            return
        if self._channel is not None:
            self._channel.resume_reading()
        if self._link is not None:
            self._loop.add_reader(self._link, self._on_link)
        self._loop.add_reader(self._pidfd, self._on_exit)

    def _make_message(self, value: Any, handle: Any) -> events.Message:
        seq, at = self._home.next_event()
        return events.make_message(seq, at, self._face, value, handle)

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
                self._answer_listen(message)
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
        self._happen(Input.CHANNEL_LOST)

    def violated(self, error: ProtocolError) -> None:
        """The worker broke the protocol of a belt or the link: it loses its channel."""
        if self._channel is not None and not self._channel.is_closed:
            self._channel.close()
            self._on_channel_lost(error)

    def _on_exit(self) -> None:
        status = processes.reap(self._pidfd)
        if status is not None:
            self._end(status)

    def _end(self, status: ExitStatus) -> None:
        self._hear_last_words()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._status = status
        self._happen(Input.EXITED)

    def _happen(self, what: Input, *, grace: float = 0.0) -> None:
        self._perform(self.life.handle(what, self._loop.time(), grace=grace))
        self._keep_deadline()

    def _keep_deadline(self) -> None:
        due = self.life.deadline
        if self._deadline is not None:
            if due == self._due:
                return
            self._deadline.cancel()
            self._deadline = None
        if due is not None:
            self._due = due  # the handle does not tell, on uvloop
            self._deadline = self._loop.call_at(due, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline = None
        if self.life.state is not State.DEAD:
            log.warning("worker %d did not leave in time: killed", self.seat.id)
        self._happen(Input.OVERDUE)

    # --- what is to be done -------------------------------------------------------------------------------

    def _perform(self, todo: tuple[Do, ...]) -> None:
        take_all((partial(self._steps[step], self) for step in todo), f"worker {self.seat.id}")

    def _ask_to_leave(self) -> None:
        """At once or, if those who have come have nobody else, when it has them."""
        if self._home.switchboard.is_finishing(self.seat.id):
            self._finish_by = min(self._finish_by, self._loop.time() + self._grace * FINISH_SHARE)
            self._finishing = self._loop.call_at(self._finish_by, self.finished)
        else:
            self._ask()

    def finished(self) -> None:
        """It has all who had come, or half of its grace is over: it needs the rest to serve them."""
        if self._stop_finishing() and self.life.state is State.DRAINING:
            self._home.switchboard.rest(self.seat.id, finishes=True)
            self._ask()

    def _stop_finishing(self) -> bool:
        timer, self._finishing = self._finishing, None
        if timer is not None:
            timer.cancel()
        return timer is not None

    def _ask(self) -> None:
        if not self._is_attached:
            # No loop of ours hears a message: a program of threads and plain sockets is asked by a signal.
            # And before the message: a loop that we have not heard of yet may read that at once, leave, and
            # have taken its handlers with it when the signal comes.
            self.signal(signal.SIGTERM)
        if self._channel is not None:
            deadline = self.life.deadline
            left = self._grace if deadline is None else deadline - KILL_MARGIN - self._loop.time()
            self._channel.post(wire.Disconnect(max(min(self._grace, left), 0.0)))

    def _leave_rotation(self) -> None:
        self.is_ready = False
        self._stop_finishing()
        finishes = self.life.state is State.DRAINING and not self._is_ending
        if finishes and not self._leaves_by_itself:
            self._home.switchboard.finish(self.seat.id)
        else:
            self._home.switchboard.rest(self.seat.id, finishes=finishes)

    def _release(self) -> None:
        self._home.switchboard.remove(self.seat.id, voluntary=self.life.voluntary)

    def _read_to_end(self) -> None:
        if self._channel is not None and not self._channel.is_closed:
            self._channel.read_to_end()

    def _close_channel(self) -> None:
        if self._link is not None:
            self._loop.remove_reader(self._link)
            self._link.close()
            self._link = None
        if self._channel is not None:
            self._channel.close()

    def _emit_online(self) -> None:
        self._home.emit(events.Online, worker=self._face)

    def _emit_disconnected(self) -> None:
        self._home.emit(events.Disconnected, worker=self._face)

    def _emit_exited(self) -> None:
        status = self._status
        assert status is not None
        # Only now: requests that were open fail with the way the worker ended.
        self.mailbox.peer_status = status
        steps: list[Callable[[], object]] = [
            self.mailbox.close,
            partial(self._home.board.release, self.seat.row),
            partial(self._home.gone, self._face),
            partial(
                self._home.emit,
                events.Exited,
                worker=self._face,
                status=status,
                voluntary=self.life.voluntary,
            ),
        ]
        if self.stdin is not None:
            steps.insert(1, self.stdin.abort)
        if not self.exited.done():
            steps.append(partial(self.exited.set_result, status))
        take_all(steps, f"worker {self.seat.id}")

    def _die(self) -> None:
        self.life.die()

    def _kill(self) -> None:
        self.signal(signal.SIGKILL)

    _steps = {  # noqa: RUF012 - a constant table
        Do.ASK_TO_LEAVE: _ask_to_leave,
        Do.LEAVE_ROTATION: _leave_rotation,
        Do.RELEASE: _release,
        Do.CLOSE_CHANNEL: _close_channel,
        Do.READ_TO_END: _read_to_end,
        Do.DIE: _die,
        Do.EMIT_ONLINE: _emit_online,
        Do.EMIT_DISCONNECTED: _emit_disconnected,
        Do.EMIT_EXITED: _emit_exited,
        Do.KILL: _kill,
    }

    # --- listening ----------------------------------------------------------------------------------------

    def _grant(self, request: wire.Listen) -> Grant:
        self._check_permit(request.address, request.fd)
        return self._home.switchboard.listen(self.seat.id, request, makes_ready=not self._holds_ready)

    def _check_permit(self, address: Any, fd: int | None = None) -> None:
        if self._permits is not None and permit_of(address, fd) not in self._permits:
            what = describe(off_the_wire(address)) if fd is None else f"descriptor {fd}"
            why = "the worker has another user than the primary, and `addresses` does not name it"
            raise OSError(errno.EACCES, f"cannot listen on {what}: {os.strerror(errno.EACCES)} ({why})")

    def _answer_listen(self, request: wire.Listen) -> None:
        assert self._channel is not None
        self._hear_link()
        if not self.life.may_serve:
            return  # never granted: the worker is on its way out, and its loop waits for the end
        try:
            grant = self._grant(request)
        except desk.REFUSABLE as exc:
            self._channel.post(desk.refusal(request.request, exc))
        else:
            self._channel.post(grant.message, grant.fds)

    def listening(self, entry: Entry) -> None:
        """The worker is served by a listener."""
        self._happen(Input.LISTENED)
        bound = entry.bound.listener
        self._home.emit(
            events.Listening,
            worker=self._face,
            address=bound.real,
            family=socket.AddressFamily(bound.family),
            kind=socket.SocketKind(entry.key.kind),
            fd=entry.key.fd,
        )
        if not self._holds_ready:
            self._become_ready()

    def _become_ready(self) -> None:
        if self.is_ready or not self.life.may_serve:
            return
        self.is_ready = True
        self._home.switchboard.set_ready(self.seat.id)
        self._home.emit(events.Ready, worker=self._face)

    # --- the link -----------------------------------------------------------------------------------------

    def _hear_link(self) -> None:
        """Answer what was said on the link, before what was said on the channel after it."""
        for _ in range(_LINK_BUDGET):
            if not self._on_link():
                return

    def _hear_last_words(self) -> None:
        """It may have said by its link that it leaves, or why it failed, without waiting for an answer."""
        self._is_ending = True
        self._hear_link()

    def _on_link(self) -> bool:
        """Answer one request, if there is one."""
        link = self._link
        if link is None:
            return False
        try:
            received = belt.receive(link)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            received = None
        if received is None:
            self._loop.remove_reader(link)
            return False
        data, fds, is_truncated = received
        number, body = data[: LINK_NUMBER.size], data[LINK_NUMBER.size :]
        try:
            request = wire.decode_link_request(body)
            if self._is_ending and not isinstance(request, (wire.Leave, wire.Report)):
                return True
            if isinstance(request, wire.GiveUp):
                self._take_back_grant(number)
                return True
            reply, out = self._answer_link(request, fds, is_truncated=is_truncated)
        except ProtocolError as exc:
            self.violated(ProtocolError(f"on the link: {exc}"))
            return False
        finally:
            close_all(fds)
        if isinstance(reply, wire.Granted):
            self._last_grant = number, reply.listener
        try:
            if not self._is_ending:
                belt.Belt(link, link).send(number + wire.encode(reply), out)
        except OSError as exc:
            log.warning("worker %d: no reply on its link: %s", self.seat.id, exc)
        finally:
            close_all(out)
        return True

    def _take_back_grant(self, number: bytes) -> None:
        if self._last_grant is not None and self._last_grant[0] == number:
            self._home.switchboard.give_up(self.seat.id, self._last_grant[1])

    def _answer_link(
        self, request: Any, fds: list[int], *, is_truncated: bool = False
    ) -> tuple[Any, tuple[int, ...]]:
        """The reply, and the descriptors that go with it. `fds` came with the request: what is left of them
        is closed.
        """
        switchboard = self._home.switchboard
        try:
            match request:
                case wire.Listen() | wire.Bind():
                    if is_truncated:  # this process has no number left for the socket that came with it
                        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                    grant = self._grant_on_link(request, fds)
                    return grant.message, grant.fds
                case wire.SetOption() | wire.GetOption():
                    return desk.option(switchboard, self.seat.id, request), ()
                case wire.Settle():
                    switchboard.hear(self.seat.id)
                case wire.Release(listener):
                    return wire.Done(), (switchboard.release(self.seat.id, listener),)
                case wire.Report(body):
                    self.mailbox.deliver(wire.Note(body), ())
                case wire.StartListening():
                    switchboard.start(self.seat.id, request, makes_ready=not self._holds_ready)
                case wire.HoldReady():
                    self._holds_ready = not self.is_ready
                case wire.ReadyNow():
                    self._holds_ready = False
                    self._become_ready()
                case wire.Leave():
                    self._leaves_by_itself = True
                    self._happen(Input.LEAVE, grace=self._grace)
                    if self._stop_finishing():  # it leaves now, and need not be asked any more
                        switchboard.rest(self.seat.id, finishes=True)
        except desk.REFUSABLE as exc:
            return desk.refusal(0, exc), ()
        return wire.Done(), ()

    def _grant_on_link(self, request: wire.Listen | wire.Bind, fds: list[int]) -> Grant:
        if not self.life.may_serve:
            raise OSError(errno.ECANCELED, "the worker is leaving")
        if isinstance(request, wire.Listen):
            return self._grant(request)
        self._check_permit(_place_of(request))
        return desk.bind(self._home.switchboard, self.seat.id, request, fds)

    # --- orders -------------------------------------------------------------------------------------------

    def disconnect(self, grace: float) -> None:
        """Ask the worker to finish within `grace` seconds and leave; killed a moment after that."""
        self._grace = min(self._grace, grace)
        self._happen(Input.DISCONNECT, grace=grace)
        if self._stop_finishing():  # maybe in less time than the first time
            self._ask_to_leave()

    def signal(self, number: int) -> bool:
        """Signal the process; False if it is gone."""
        return self._pidfd >= 0 and processes.send_signal(self._pidfd, number)

    @property
    def grace(self) -> float:
        """Seconds that the worker has to finish its work."""
        return self._grace

    def account(self) -> tuple[int, int]:
        """Connections handed to the worker so far, and those it has not acknowledged."""
        handed_over, outstanding = self._home.switchboard.account(self.seat.id)
        if self._home.switchboard.is_shared:
            handed_over = self._home.board.accepted(self.seat.row)
        return handed_over, outstanding

    @property
    def open(self) -> int:
        """Connections that the worker has now."""
        return self._home.board.open(self.seat.row)

    @property
    def is_closed(self) -> bool:
        """Whether the streams of a dead worker were read to their end, or closed."""
        return all(pipe is None or pipe.at_eof() for pipe in (self.stdout, self.stderr))

    def close(self) -> None:
        """After the end: let go of the streams that nobody read to their end."""
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()

    def abandon(self) -> None:
        """In a forked child: close our copies, and say nothing. The loop is the parent's, and not touched."""
        pidfd, self._pidfd = self._pidfd, -1
        close_all((pidfd,))
        if self._link is not None:
            release(self._link)
            self._link = None
        if self._channel is not None:
            self._channel.abandon()

    def descriptors(self) -> list[int]:
        """The numbers that belong to this worker's channel, link and process."""
        numbers = [self._pidfd]
        if self._link is not None:
            numbers.append(self._link.fileno())
        if self._channel is not None:
            numbers.append(self._channel.fileno())
        return numbers


def _place_of(request: wire.Bind) -> Any:
    """Where it will be bound: a path is reached by way of the program's folder, if that came with it."""
    if request.folder is None or request.name is None or request.name.startswith(b"\0"):
        return request.address if request.name is None else request.name
    return os.path.normpath(os.path.join(request.folder, request.name))
