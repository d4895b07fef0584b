"""`WorkerContext`: a worker's view of itself.

Job: the public face in a worker, and its state on the worker's loop: channel, servers, departure.
Invariant: the channel is read by one event loop, the first that asks. Must not import the primary's side.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal as signals
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from everycore import events
from everycore.aio.channel import Channel
from everycore.aio.emitter import Emitter
from everycore.aio.mailbox import Mailbox
from everycore.aio.subscriptions import Subscription
from everycore.core import values, wire
from everycore.errors import ChannelClosed, EverycoreError, ProtocolError
from everycore.system.descriptors import close_all
from everycore.worker.boot import ORPHANED, Post
from everycore.worker.clustersocket import ClusterSocket
from everycore.worker.drain import Drain
from everycore.worker.ending import LastResort, ProgramTerminator, install_terminator
from everycore.worker.link import decline
from everycore.worker.reception import Reception, descriptor_limit

if TYPE_CHECKING:
    from everycore.aio.mailbox import MessageStream
    from everycore.aio.requests import Handler
    from everycore.system.board import WorkerBoard
    from everycore.worker.connections import Connections

E = TypeVar("E", bound=events.Event)
log = logging.getLogger("everycore")

#: How long the kernel may take from closing a dead primary's sockets to killing its workers, in seconds.
_KERNELS_TURN: Final = 0.1


class WorkerContext:
    """This process as a worker. Got by `everycore.current_worker()`; never made by hand."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._loop: asyncio.AbstractEventLoop | None = None
        self.channel: Channel | None = None
        self.mailbox: Mailbox | None = None
        self.main: asyncio.Task[Any] | None = None
        self.waits_for_shutdown = False
        #: Whether this worker has got a listener, now or before, or has said that it is ready.
        self.has_listened = False
        self.descriptor_limit = descriptor_limit()
        #: The status to leave with, when it is not the program's own.
        self.exit_code: int | None = None
        self._emitter = Emitter()
        self._seq = 0
        self._drain: Drain | None = None
        self._leaving = asyncio.Event()
        self._servers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._sockets: weakref.WeakSet[ClusterSocket] = weakref.WeakSet()
        self._receptions: weakref.WeakSet[Reception] = weakref.WeakSet()
        self._listens: dict[int, tuple[asyncio.Future[ClusterSocket], bool]] = {}
        self._last_request = 0
        self._leave_said = False
        self._is_program = False
        self._is_ready = False
        self._holds_ready = False
        self._when_ready: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<WorkerContext {self.id} slot={self.slot}>"

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """Counts up from 1; never used again."""
        return self._post.ticket.id

    @property
    def slot(self) -> int:
        """From 0; a replacement inherits it."""
        return self._post.ticket.slot

    @property
    def generation(self) -> int:
        """Rises with each reload."""
        return self._post.ticket.generation

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    @property
    def connections(self) -> Connections:
        """The count of open connections."""
        return self._post.connections

    @property
    def board(self) -> WorkerBoard:
        """Where the workers' loads stand."""
        return self._post.board

    def is_dead(self) -> bool:
        """Never: who asks lives."""
        return False

    def is_connected(self) -> bool:
        """Whether the channel is open."""
        return self.channel is None or not self.channel.is_closed

    # --- messages -----------------------------------------------------------------------------------------

    def send(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> Coroutine[Any, Any, None]:
        """Send `message`, and a descriptor with it, to the primary.

        Returns once the frame is in the socket or within the channel's buffer. Unless `keep_open`, `handle`
        is detached at the call.

        Raises: TypeError, OverflowError, ValueError (what can't be sent, or is too large), OSError (a closed
        handle), ChannelClosed.
        """
        return self._box().send(message, handle, keep_open=keep_open)

    def send_nowait(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> None:
        """As `send`; raises ChannelFull where that would wait."""
        self._box().send_nowait(message, handle, keep_open=keep_open)

    def request(
        self, message: Any, handle: Any = None, *, timeout: float | None, keep_open: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """Send `message` to the primary's `answer` handler and return its reply. `timeout` in seconds, or
        None.

        Raises: RequestFailed, RequestTimeout, ChannelClosed, and what `send` raises.
        """
        return self._box().request(message, handle, timeout=timeout, keep_open=keep_open)

    def answer(self, handler: Handler) -> Subscription:
        """Let `async def handler(message, handle)` answer the primary's requests. One at a time."""
        return self._box().answer(handler)

    def messages(self) -> MessageStream:
        """The primary's messages from now on, as an asynchronous iterator of `Message`."""
        return self._box().messages()

    def on(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """Call the plain function `callback` with each `Message`, or when this worker is `Disconnected`."""
        if kind is events.Message:
            return self._box().on_message(callback)
        return self._emitter.on(kind, callback)

    def _box(self) -> Mailbox:
        if self.mailbox is None:
            self.attach(asyncio.get_running_loop())
        assert self.mailbox is not None
        return self.mailbox

    # --- readiness ----------------------------------------------------------------------------------------

    def hold_ready(self) -> None:
        """Do not count as ready with the first listener; `ready()` will say so."""
        self._post.link.tell(wire.HoldReady())
        self._holds_ready = not self._is_ready

    def ready(self) -> None:
        """Take connections from now on."""
        self.has_listened = True
        self._post.link.tell(wire.ReadyNow())
        self._holds_ready = False
        self._is_ready = True
        if self._when_ready and self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell_ready)

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop when this worker takes connections: now, unless it holds that off."""
        if self._holds_ready:
            self._when_ready.append(callback)
        else:
            self._is_ready = True
            callback()

    def _tell_ready(self) -> None:
        callbacks, self._when_ready = self._when_ready, []
        for callback in callbacks:
            callback()

    # --- leaving ------------------------------------------------------------------------------------------

    def disconnect(self) -> WorkerContext:
        """Finish the work and leave, of this worker's own accord; its exit is voluntary. Returns itself."""
        if not self._leave_said and self._drain is None:
            self._leave_said = True
            # By the link, and before anything else is done: the primary knows it when the channel closes.
            try:
                self._post.link.tell(wire.Leave())
            except (OSError, EverycoreError):
                pass  # the primary is gone: this worker leaves all the same
            if self._loop is None:
                os.kill(os.getpid(), signals.SIGTERM)
            else:
                self.begin_drain(self._post.ticket.grace)
        return self

    def kill(self, signal: int = signals.SIGTERM) -> None:
        """Send this process `signal`: not voluntary by this. Node ignores the signal and exits with 0."""
        os.kill(os.getpid(), signal)

    async def wait_shutdown(self) -> None:
        """Return when this worker is to leave, whoever asked; at once if it was asked already.

        Who calls this ends `main` by returning from it; grace is the limit.
        """
        self._box()
        self.waits_for_shutdown = True
        await self._leaving.wait()

    def run_program(self) -> ProgramTerminator:
        """Let a program that knows nothing of us have this process (`everycore run`)."""
        self._is_program = True
        return install_terminator(self._post)

    def insist_on(self, numbers: Iterable[int]) -> None:
        """Let these signals, which the loop hears, end a process whose loop does not hear them."""
        last_resort = LastResort(self._post.ticket.grace, lambda: self._drain is not None)
        for number in numbers:
            last_resort.install(number)

    def only_note_signals(self) -> list[int]:
        """From now on SIGTERM and SIGINT end nothing by themselves: they are added to the list returned."""
        self._post.only_note = True
        return self._post.noted

    # --- on the loop --------------------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read the channel on `loop`. Again on the same loop: nothing."""
        if self._loop is loop:
            return
        if self._loop is not None:
            raise RuntimeError("the channel of this worker belongs to another event loop")
        self._loop = loop
        self.channel = Channel(
            self._post.channel,
            loop=loop,
            peer="the primary",
            decode=wire.decode_to_worker,
            max_message=self._post.ticket.max_message,
            on_message=self._on_message,
            on_lost=self._on_lost,
        )
        self.mailbox = Mailbox(
            self.channel,
            loop=loop,
            serialization=self._post.ticket.serialization,
            make_message=self._make_message,
        )
        self.channel.post(wire.Attached())

    def _make_message(self, value: Any, handle: Any) -> events.Message:
        self._seq += 1
        return events.make_message(self._seq, time.time(), self, value, handle)

    def _next(self) -> dict[str, Any]:
        self._seq += 1
        return {"seq": self._seq, "at": time.time(), "worker": self}

    def _on_message(self, message: Any, fds: tuple[int, ...]) -> None:
        match message:
            case wire.Granted():
                self._granted(message, fds)
            case wire.Refused(request, errno, text):
                future, _ = self._listens.pop(request, (None, False))
                if future is not None and not future.done():
                    future.set_exception(OSError(errno, text))
            case wire.Disconnect(grace) if self._is_program and self.main is None:
                self._tell_program(grace)
            case wire.Disconnect(grace):
                self.begin_drain(grace)
            case _:
                assert self.mailbox is not None
                self.mailbox.deliver(message, fds)
                return
        if fds and not isinstance(message, wire.Granted):
            close_all(fds)
            raise ProtocolError(f"{type(message).__name__} came with {len(fds)} descriptors")

    def _on_lost(self, error: Exception | None) -> None:
        """The primary is gone, or has given us up."""
        if error is not None:
            log.error("the channel to the primary: %s", error)
        if self.exit_code is None:
            self.exit_code = ORPHANED
        self._channel_closed()
        grace = self._post.ticket.orphan_grace
        assert self._loop is not None
        if grace:
            self.begin_drain(grace)
        else:
            # If the primary has died the kernel kills this process, a moment after it has closed the channel;
            # what began to end in between would only make noise.
            self._loop.call_later(_KERNELS_TURN, self.begin_drain, grace)
        # A main task that does not let itself be cancelled:
        self._loop.call_later(grace + 1.0, os._exit, ORPHANED)

    def close_channel(self) -> None:
        """Step 4: we close it ourselves."""
        if self.channel is not None and not self.channel.is_closed:
            self.channel.close()
            self._channel_closed()

    def _channel_closed(self) -> None:
        if self.mailbox is not None:
            self.mailbox.close()
        self._emitter.emit(events.Disconnected(**self._next()))

    # --- listening ----------------------------------------------------------------------------------------

    async def listen(self, request: wire.Listen) -> ClusterSocket:
        """Ask the primary for a listener, by the channel. Raises OSError as a lone process would see it."""
        self._box()
        assert self.channel is not None
        assert self._loop is not None
        if self.channel.is_closed:
            if self._drain is not None:  # never granted: it waits for the end of the departure, as any other
                await self._drain.done.wait()
            raise ChannelClosed("the primary")
        self._last_request += 1
        number = self._last_request
        future: asyncio.Future[ClusterSocket] = self._loop.create_future()
        self._listens[number] = (future, request.start)
        self.channel.post(_numbered(request, number))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().close()  # it came in the very turn in which we were cancelled
            raise
        finally:
            self._listens.pop(number, None)

    def listen_blocking(self, request: wire.Listen, timeout: float) -> ClusterSocket:
        """As `listen`, by the link: for any thread, with or without a loop. It asks to be served at once."""
        if self._drain is not None:  # the primary's own answer, should it have closed the link already
            raise OSError(errno.ECANCELED, "the worker is leaving")
        message, fds = self._post.link.request(request, timeout=timeout)
        self.has_listened = True
        self._is_ready = self._is_ready or not self._holds_ready
        sock = ClusterSocket.granted(message, fds, self._post.connections, self.start_listening, started=True)
        self._sockets.add(sock)
        sock.say(wire.Serve(1))
        return sock

    def bind_socket(self, request: wire.Bind, fd: int) -> ClusterSocket:
        """Let the primary bind the program's own socket `fd`, by the link. Raises OSError as bind(2) does."""
        message, fds = self._post.link.request(request, fd=fd)
        return ClusterSocket.granted(
            message, fds, self._post.connections, self.start_listening, started=False
        )

    def release_socket(self, sock: ClusterSocket) -> int:
        """Have the program's own socket back from the primary, still bound. Raises OSError."""
        lease = sock.lease
        assert lease is not None
        _, fds = self._post.link.request(wire.Release(lease.listener))
        return fds[0]

    def settle(self) -> None:
        """Wait until the primary has heard what was said on belts; at best."""
        self._post.link.settle(timeout=1.0)

    def listener_option(self, request: wire.SetOption | wire.GetOption) -> bytes:
        """Set or read an option of a listener in the primary. Raises OSError."""
        reply, _ = self._post.link.request(request)
        return reply.value if isinstance(reply, wire.Option) else b""

    def report(self, value: Any) -> None:
        """Send a message without a loop: for a program that has none, or none any more. May raise OSError."""
        self._post.link.request(wire.Report(values.encode_json(value)))

    def _granted(self, message: wire.Granted, fds: tuple[int, ...]) -> None:
        future, started = self._listens.pop(message.request, (None, False))
        if future is None or future.done():  # cancelled meanwhile: it was never held
            decline(list(fds))
            return
        sock = ClusterSocket.granted(
            message, fds, self._post.connections, self.start_listening, started=started
        )
        self._sockets.add(sock)
        self.has_listened = True
        future.set_result(sock)

    def start_listening(self, listener: int, backlog: int) -> None:
        """Let what was only bound listen. Raises OSError."""
        self._post.link.request(wire.StartListening(listener, backlog))
        self.has_listened = True

    def watch_server(self, server: Any) -> None:
        """A server that a drain closes."""
        self._servers.add(server)

    def watch_reception(self, reception: Reception) -> None:
        """What takes connections off a belt."""
        self._receptions.add(reception)

    # --- departure ----------------------------------------------------------------------------------------

    @property
    def drain(self) -> Drain | None:
        """The departure under way."""
        return self._drain

    def _tell_program(self, grace: float) -> None:
        """Pass it on by SIGTERM, as to a lone process: at once, or to who waits for it when grace is over."""
        self._leaving.set()
        assert self._loop is not None
        delay = grace if self.waits_for_shutdown else 0.0
        self._loop.call_later(delay, os.kill, os.getpid(), signals.SIGTERM)

    def begin_drain(self, grace: float) -> None:
        """Leave, within `grace` seconds; again: nothing."""
        if self._drain is None:
            assert self._loop is not None
            self._post.board.serving(False)
            self._drain = Drain(self, self._loop, grace)
            self._leaving.set()

    async def finish(self) -> None:
        """The program is over: wait for the drain under way, then for the channel to take what was sent."""
        if self._drain is not None:
            await self._drain.done.wait()
        if self.mailbox is not None and self.channel is not None and not self.channel.is_closed:
            try:
                async with asyncio.timeout(self._post.ticket.grace):
                    await self.mailbox.flush()
            except TimeoutError:
                log.warning("the primary did not take this worker's last messages")

    def abandon(self) -> None:
        """In a forked child: all of this is the parent's."""
        if self.channel is not None:
            self.channel.abandon()
        self._post.abandon()
        for sock in tuple(self._sockets):
            sock.abandon()

    def close_servers(self) -> None:
        """Step 2. Who lies on a belt now was left there for this worker, as there is nobody else."""
        for reception in tuple(self._receptions):
            reception.take_all()
        for server in tuple(self._servers):
            leave = getattr(server, "leave", server.close)  # what others have made can only be closed
            leave()


def _numbered(request: wire.Listen, number: int) -> wire.Listen:
    return msgspec.structs.replace(request, request=number)
