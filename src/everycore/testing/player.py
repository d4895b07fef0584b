"""`Player`, the working part of a `FakeWorker`: its process, channel, link, listeners and life.

Invariant: a worker that has ended leaves nothing behind: no descriptor, reader or task.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from everycore.aio.channel import Channel
from everycore.aio.mailbox import Mailbox
from everycore.aio.waiting import settle
from everycore.core import wire
from everycore.errors import ChannelClosed
from everycore.events import Message
from everycore.model import ExitStatus
from everycore.system import packets
from everycore.system.descriptors import close_all
from everycore.testing.processes import FakeProcess
from everycore.worker.boot import ORPHANED
from everycore.worker.listening.clustersocket import ClusterSocket


class Player:
    """Plays one worker. `face` is the object that its messages name as their `worker`."""

    def __init__(self, process: FakeProcess, loop: asyncio.AbstractEventLoop, face: Any) -> None:
        self.process = process
        #: The error that its life raised, if any.
        self.error: Exception | None = None
        self.asked: asyncio.Future[float] = loop.create_future()
        self._loop = loop
        self._is_online = False
        self._is_orphaned = False
        self._listens: dict[int, asyncio.Future[ClusterSocket]] = {}
        self._sockets: list[ClusterSocket] = []
        self._requests = itertools.count(1)
        self._life: asyncio.Task[None] | None = None
        self._channel = Channel(
            process.channel,
            loop=loop,
            peer="the primary",
            decode=wire.decode_to_worker,
            max_message=process.ticket.max_message,
            on_message=self._on_message,
            on_lost=self._on_lost,
        )
        self._channel.pause_reading()
        numbers = itertools.count(1)
        self.mailbox = Mailbox(
            self._channel,
            loop=loop,
            serialization=process.ticket.serialization,
            make_message=lambda value, handle: Message(
                seq=next(numbers), at=time.time(), worker=face, message=value, handle=handle
            ),
        )
        process.on_signal = self._on_signal
        process.on_end = self._close
        loop.add_reader(process.link, self._hear_link)

    # --- sending ------------------------------------------------------------------------------------------

    def online(self) -> None:
        """Join the channel, unless the worker has joined it already."""
        self._check_alive()
        if not self._is_online:
            self._is_online = True
            self._channel.post(wire.Joined(self.process.pid))
            self._channel.post(wire.Attached())
            self._channel.outbox.send_now()
            self._channel.resume_reading()

    def tell(self, order: Any) -> None:
        """Send `order` on the link. Raises ChannelClosed."""
        self.online()
        if self._channel.is_closed:
            raise ChannelClosed("the primary")
        self.process.link.send(wire.LINK_NUMBER.pack(next(self._requests)) + wire.encode(order))

    async def listen(self, request: wire.Listen) -> ClusterSocket:
        """Ask for a listener, and begin to serve it. Raises OSError, ChannelClosed."""
        self.online()
        if self._channel.is_closed:
            raise ChannelClosed("the primary")
        number = next(self._requests)
        granted: asyncio.Future[ClusterSocket] = self._loop.create_future()
        self._listens[number] = granted
        self._channel.post(msgspec.structs.replace(request, request=number))
        sock = await granted
        sock.tell_primary(wire.Serve(1))
        return sock

    # --- receiving ----------------------------------------------------------------------------------------

    def _hear_link(self) -> None:
        """Read and drop the replies, so that the primary can send more. Nothing waits for them."""
        received = packets.receive(self.process.link)
        if received is None:
            self._loop.remove_reader(self.process.link)
        else:
            close_all(received[1])

    def _on_message(self, message: Any, fds: tuple[int, ...]) -> None:
        match message:
            case wire.Granted():
                sock = ClusterSocket.granted(message, fds, _nothing, _nothing, started=True)
                sock.setblocking(False)
                self._sockets.append(sock)
                settle(self._listens.pop(message.request), sock)
            case wire.Refused():
                settle(self._listens.pop(message.request), OSError(message.errno, message.text))
            case wire.Disconnect(grace):
                self.leave(grace)
            case wire.ReopenLogs():
                pass  # a fake worker has no log files
            case _:
                self.mailbox.deliver(message, fds)

    def _on_lost(self, _: Exception | None) -> None:
        """The primary has given the worker up. Leave, as a real worker would."""
        self._is_orphaned = True
        self.mailbox.lost()
        self.leave(self.process.ticket.orphan_grace)

    def _on_signal(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self.leave(self.process.ticket.grace)

    def leave(self, grace: float) -> None:
        """Ask the worker to leave within `grace` seconds."""
        if not self.asked.done():
            self.asked.set_result(grace)

    # --- its life and its end -----------------------------------------------------------------------------

    def live(self, life: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Begin `life`; the worker ends with it."""
        self._life = self._loop.create_task(self._live(life), name=f"fake worker {self.process.ticket.id}")

    async def _live(self, life: Callable[[], Coroutine[Any, Any, object]]) -> None:
        code = 0
        try:
            await life()  # called within the task: a worker that is killed at once never begins
            code = ORPHANED if self._is_orphaned else 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        except Exception as error:
            self.error, code = error, 1
        if self.process.status is None:
            self._life = None
            self.end(ExitStatus(code=code))

    def end(self, status: ExitStatus) -> None:
        """End with this status. Raises RuntimeError if the worker has ended."""
        self._check_alive()
        self.process.end(status)

    def close_channel(self) -> None:
        """Lose the channel but go on living."""
        self._check_alive()
        self._hang_up()
        self.process.close()

    def _check_alive(self) -> None:
        if self.process.status is not None:
            raise RuntimeError(f"fake worker {self.process.ticket.id} has ended: {self.process.status}")

    def _hang_up(self) -> None:
        """Close the channel, after sending what is buffered."""
        if self.process.link.fileno() >= 0:
            self._loop.remove_reader(self.process.link)
        if not self._channel.is_closed:
            self._channel.outbox.send_now()
        self.mailbox.close()

    def _close(self) -> None:
        """Close everything, at the end of the process."""
        if self._life is not None:
            self._life.cancel()
        self._hang_up()
        for sock in self._sockets:
            sock.abandon()
        for granted in self._listens.values():
            settle(granted, ChannelClosed("the primary"))


def _nothing(*_: Any) -> None:
    """Do nothing: a fake worker counts no connections."""
