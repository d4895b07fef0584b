"""What this process has as a worker: its channel on the loop, its listeners, its readiness, its departure.

`WorkerContext` is the public face. One event loop reads the channel: the first that uses it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from everycore import events
from everycore.aio.channel import Channel
from everycore.aio.emitter import Emitter
from everycore.aio.mailbox import Mailbox
from everycore.core import values, wire
from everycore.errors import ProtocolError
from everycore.system import logfiles
from everycore.system.descriptors import close_all
from everycore.worker.boot import ORPHANED, Membership
from everycore.worker.connections.handons import HandOns
from everycore.worker.connections.reception import Receptions
from everycore.worker.departure import Departure
from everycore.worker.grants import Grants
from everycore.worker.listening.clustersocket import ClusterSocket
from everycore.worker.listening.heartbeat import Heartbeat
from everycore.worker.listening.readiness import Readiness

T = TypeVar("T")
log = logging.getLogger("everycore.worker")

#: How long the kernel may take from closing a dead primary's sockets to killing its workers, in seconds.
_KERNELS_TURN: Final = 0.1


class Session:
    """This process's part in the cluster, as a worker."""

    def __init__(self, membership: Membership, make_face: Callable[[Session], Any]) -> None:
        self._membership = membership
        self.ticket = membership.ticket
        self.board = membership.board
        #: The count of open connections.
        self.connections = membership.connections
        #: How this worker handles SIGTERM and SIGINT.
        self.signals = membership.signals
        self.receptions = Receptions()
        #: Sockets that came over the channel. A drain waits for the transports that are made from them.
        self.handles: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self.readiness = Readiness(membership.link)
        self.departure = Departure(
            membership.connections, membership.board, self.receptions, membership.ticket.shutdown_timeout
        )
        self.handons = HandOns()
        self.heartbeat = Heartbeat(membership.board, membership.ticket.beat)
        self.grants = Grants(membership.link, membership.connections, self.readiness, self.departure)
        self.emitter = Emitter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: Channel | None = None
        self._mailbox: Mailbox | None = None
        #: Sequence numbers. Events and messages share one count.
        self._numbers = itertools.count(1)
        self._has_said_leave = False
        self._is_program = False
        #: What the program sees of this worker, and what events name as their `worker`.
        self.face = make_face(self)

    # --- on the loop --------------------------------------------------------------------------------------

    @property
    def mailbox(self) -> Mailbox:
        """The messages from and to the primary; the running loop reads the channel from now on."""
        mailbox = self._mailbox
        return mailbox if mailbox is not None else self._attach(asyncio.get_running_loop())[1]

    @property
    def is_connected(self) -> bool:
        """Whether the channel is open."""
        return self._channel is None or not self._channel.is_closed

    def begin_main(self, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin `main`, the task that ends last, on the running loop, which reads the channel from now on."""
        loop = asyncio.get_running_loop()
        channel, _ = self._attach(loop)
        # The calls in `main`'s first step, `answer` above all, must come before the first message. uvloop
        # would read the channel before it begins `main`.
        channel.pause_reading()
        task = loop.create_task(main, name="main")
        self.departure.watch_main(task)
        loop.call_soon(channel.resume_reading)
        return task

    def _attach(self, loop: asyncio.AbstractEventLoop) -> tuple[Channel, Mailbox]:
        """Read the channel on `loop`. Raises RuntimeError if another loop reads it already."""
        if self._channel is None or self._mailbox is None:
            self._loop = loop
            self._channel = Channel(
                self._membership.channel,
                loop=loop,
                peer="the primary",
                decode=wire.decode_to_worker,
                max_message=self.ticket.max_message,
                on_message=self._on_message,
                on_lost=self._on_lost,
            )
            self.handons.speak_by(self._channel.post)
            self._mailbox = Mailbox(
                self._channel,
                loop=loop,
                serialization=self.ticket.serialization,
                make_message=self._message_maker(),
                on_handle=self._on_handle,
            )
            self._membership.orphan.is_read = True
            self.heartbeat.begin(loop)
            self._channel.post(wire.Attached())
        elif self._loop is not loop:
            raise RuntimeError("the channel of this worker belongs to another event loop")
        return self._channel, self._mailbox

    def _message_maker(self) -> Callable[[Any, Any], events.Message]:
        """A function that makes the program's messages. HOT: its closure holds everything it needs."""
        make, next_number, now, face = events.Message, self._numbers.__next__, time.time, self.face
        return lambda value, handle: make(
            seq=next_number(), at=now(), worker=face, message=value, handle=handle
        )

    def _on_handle(self, handle: Any) -> None:
        if isinstance(handle, socket.socket):
            self.handles.add(handle)

    def _on_message(self, message: Any, fds: tuple[int, ...]) -> None:
        match message:
            case wire.Granted():
                self.grants.granted(message, fds)
                return
            case wire.Refused():
                self.grants.refused(message)
            case wire.TakeOver():
                self.handons.take_over(fds)
                return
            case wire.ReopenLogs():
                # A program under `everycore run` owns its log files: it gets SIGUSR1 instead.
                if not self._is_program:
                    logfiles.reopen()
            case wire.MayHandOn(may):
                self.handons.is_told = may
            case wire.Disconnect(grace, spares_idle):
                assert self._loop is not None
                self.departure.spares_idle = spares_idle
                if self._is_program and not self.departure.has_main:
                    self.departure.tell_program(self._loop, grace)
                else:
                    self._depart(grace)
            case _:
                assert self._mailbox is not None
                self._mailbox.deliver(message, fds)
                return
        if fds:
            close_all(fds)
            raise ProtocolError(f"{type(message).__name__} came with {len(fds)} descriptors")

    # --- listening ----------------------------------------------------------------------------------------

    async def listen(self, request: wire.Listen) -> ClusterSocket:
        """Ask the primary for a listener over the channel. Raises the OSError that a lone process gets."""
        channel = self._channel or self._attach(asyncio.get_running_loop())[0]
        return await self.grants.listen(request, channel)

    def report(self, value: Any) -> None:
        """Send a message from a program that has no event loop, or none left. Raises OSError."""
        self._membership.link.request(wire.Report(values.encode_json(value)))

    # --- signals ------------------------------------------------------------------------------------------

    def run_program(self) -> None:
        """Hand this process to a program that knows nothing of everycore (`everycore run`)."""
        self._is_program = True
        self.connections.seek_listeners(self.grants.shared)
        self.signals.be_guest()

    # --- leaving ------------------------------------------------------------------------------------------

    def disconnect(self) -> None:
        """Finish the work and leave, of this worker's own accord."""
        if self._has_said_leave or self.departure.has_begun:
            return
        self._has_said_leave = True
        # Tell the primary by the link first: it must know before the channel closes.
        self._membership.say_leave()
        if self._loop is None:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._depart(self.ticket.grace)

    async def asked_to_leave(self) -> None:
        """Wait until this worker is to leave, whoever asks. The running loop reads the channel meanwhile."""
        if self._channel is None:
            self._attach(asyncio.get_running_loop())
        await self.departure.asked()

    def _depart(self, grace: float) -> None:
        assert self._loop is not None
        self.signals.departs()
        self.departure.begin(self._loop, grace, self._say_goodbye)

    async def _say_goodbye(self) -> None:
        """Tell the primary that this worker is drained, and close the channel."""
        if self._channel is None or self._channel.is_closed:
            return
        try:
            self._channel.post(wire.Drained())
            await self._channel.flush()
        finally:
            self._close()

    def _close(self) -> None:
        if self._channel is not None and not self._channel.is_closed:
            self._channel.close()
            self._closed()

    def _closed(self) -> None:
        if self._mailbox is not None:
            self._mailbox.close()
        number = next(self._numbers)
        self.emitter.emit(events.Disconnected(seq=number, at=time.time(), worker=self.face))

    def _on_lost(self, error: Exception | None) -> None:
        """The channel is lost: the primary has died or has given this worker up."""
        if error is not None:
            log.error("the channel to the primary: %s", error)
        self._membership.orphan.is_leaving = True
        if self.departure.exit_code is None:
            self.departure.exit_code = ORPHANED
        self._closed()
        grace = self.ticket.orphan_grace
        assert self._loop is not None
        if grace:
            self._depart(grace)
        else:
            # If the primary has died, the kernel kills this process a moment after it closes the channel. A
            # departure that began in between would only fill the log.
            self._loop.call_later(_KERNELS_TURN, self._depart, grace)
        # This ends a main task that swallows its cancellation.
        self._loop.call_later(grace + 1.0, os._exit, ORPHANED)

    async def finish(self) -> None:
        """Wait, after the program's end, for a departure under way, then for the channel to flush."""
        self.heartbeat.end()
        if self.departure.has_begun:
            await self.departure.over()
        if self._channel is not None and not self._channel.is_closed:
            try:
                async with asyncio.timeout(self.ticket.grace):
                    await self._channel.flush()
            except TimeoutError:
                log.warning("the primary did not take this worker's last messages")

    def abandon(self) -> None:
        """Close this process's copies, in a forked child: the parent goes on using the originals."""
        if self._channel is not None:
            self._channel.abandon()
        self._membership.abandon()
        self.grants.abandon()
