"""What the primary and one worker say to each other over the channel and the link.

Each message is passed on to the part of the primary that it concerns. Invariant: a message on the link is
handled before every later message on the channel. A descriptor that came with a message is taken over or
closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

from everycore.aio.channel import Channel
from everycore.aio.mailbox import Mailbox
from everycore.aio.outbox import NoPeer
from everycore.core import wire
from everycore.errors import ProtocolError
from everycore.primary.eventlog import WorkerLog
from everycore.primary.handons import HandOnMember
from everycore.primary.linkserver import LinkClient, LinkServer
from everycore.primary.runtime import Runtime
from everycore.primary.spawner import Child
from everycore.settings import Settings
from everycore.system.strange import close_strange

log = logging.getLogger("everycore.primary")

#: The most requests to listen of one worker that wait, and how many are answered before the loop turns. Each
#: answer examines all listeners that the worker holds.
MOST_ASKED: Final = 256
ANSWERS_A_TURN: Final = 8
#: Messages that must come without descriptors.
_WITHOUT_DESCRIPTORS: Final = (wire.Joined, wire.Attached, wire.Drained, wire.CanHandOn, wire.Listen)


class IpcClient(LinkClient, HandOnMember, Protocol):
    """The driver of the worker at the other end."""

    def on_joined(self) -> None:
        """Note that the worker has joined."""

    def on_lost(self, error: Exception | None) -> None:
        """Note that its channel has ended. `error`: why the primary gave it up, if it did."""


class Ipc:
    """The channel and the link of one worker. `child`: None if its process was not started."""

    def __init__(
        self,
        runtime: Runtime,
        client: IpcClient,
        settings: Settings,
        worker_log: WorkerLog,
        child: Child | None,
    ) -> None:
        self._client = client
        self._loop: asyncio.AbstractEventLoop = runtime.loop
        self._exchange = runtime.exchange
        #: Requests to listen from the channel that are not answered yet.
        self._asked: deque[wire.Listen] = deque()
        self._is_answering = False
        #: Whether a loop of everycore reads the worker's channel.
        self.is_attached = False
        #: The message for a worker whose loop does not read the channel yet, and may never: only one waits.
        self._waiting: wire.ReopenLogs | None = None
        #: Whether the channel or the process has ended.
        self.is_ending = False
        self._link_server: LinkServer | None = None
        if child is not None:
            self._link_server = LinkServer(
                runtime.loop, child.link, client, runtime.switchboard, child.permits
            )
        sock: socket.socket | NoPeer = NoPeer() if child is None else child.channel
        self._channel = Channel(
            sock,
            loop=runtime.loop,
            peer=f"worker {client.id}",
            decode=wire.decode_to_primary,
            max_message=runtime.terms.max_message,
            on_message=self._on_message,
            on_lost=self._on_lost,
        )
        self._channel.pause_reading()
        self.mailbox = Mailbox(
            self._channel,
            loop=runtime.loop,
            serialization=settings.serialization,
            make_message=worker_log.message,
        )

    def open(self) -> None:
        """Read from now on."""
        self._channel.resume_reading()
        if self._link_server is not None:
            self._link_server.open()

    def close(self) -> None:
        """Stop reading and sending."""
        self._asked.clear()
        if self._link_server is not None:
            self._link_server.close()
        self._channel.close()

    def abandon(self) -> None:
        """In a forked child: close the child's copies, and leave the parent's loop alone."""
        if self._link_server is not None:
            self._link_server.abandon()
        self._channel.abandon()

    def filenos(self) -> list[int]:
        """The descriptors of the link, if there is one, and of the channel."""
        return [end.fileno() for end in (self._link_server, self._channel) if end is not None]

    def tell(
        self,
        message: wire.Disconnect | wire.ReopenLogs | wire.MayHandOn | wire.TakeOver,
        fds: Sequence[int] = (),
    ) -> None:
        """Send a message on the channel, which owns the descriptors from now on."""
        if isinstance(message, wire.ReopenLogs) and not self.is_attached:
            self._waiting = message
        else:
            self._channel.post(message, fds)

    # --- what the worker says -----------------------------------------------------------------------------

    def _on_message(self, message: Any, fds: tuple[int, ...]) -> None:
        """Handle one frame of the channel. An error raised here costs the worker its channel."""
        if fds and isinstance(message, _WITHOUT_DESCRIPTORS):
            close_strange(fds)
            raise ProtocolError(f"{type(message).__name__} came with {len(fds)} descriptors")
        match message:
            case wire.Note() | wire.Ask() | wire.Answer() | wire.Failure() | wire.Took():
                self.mailbox.deliver(message, fds)
            case wire.Joined():
                self._client.on_joined()
            case wire.Attached():
                self.is_attached = True
                if self._waiting is not None:
                    self._channel.post(self._waiting)
                    self._waiting = None
            case wire.Listen():
                self._ask(message)
            case wire.CanHandOn(most):
                self._exchange.can(self._client, most)
            case wire.HandOn():
                self._exchange.hand_on(self._client, fds)
            case wire.Drained():
                pass  # the end of the channel follows, and is enough

    def _ask(self, request: wire.Listen) -> None:
        if len(self._asked) >= MOST_ASKED:
            raise ProtocolError(f"it has asked for more than {MOST_ASKED} listeners at once")
        self._asked.append(request)
        if not self._is_answering:
            self._answer_some(1)

    def _answer_some(self, most: int = ANSWERS_A_TURN) -> None:
        self._is_answering = bool(self._asked)
        if self._is_answering:
            self._loop.call_soon(self._answer_some)
        for _ in range(min(most, len(self._asked))):
            self._listen(self._asked.popleft())

    def _listen(self, request: wire.Listen) -> None:
        assert self._link_server is not None
        self._link_server.answer_pending()
        # A worker that leaves gets no answer: its wait ends when it departs.
        if self._client.may_serve and not self.is_ending:
            self._channel.post(*self._link_server.answer_listen(request))

    # --- the end ------------------------------------------------------------------------------------------

    def break_off(self, error: ProtocolError) -> None:
        """Take the channel from the worker, which broke a protocol."""
        if not self._channel.is_closed:
            self._channel.close()
            self._on_lost(error)

    def _on_lost(self, error: Exception | None) -> None:
        if error is None:
            self._hear_last_words()
        else:
            log.error("worker %d: %s; giving up its channel", self._client.id, error)
        self._client.on_lost(error)

    def read_to_the_end(self) -> None:
        """Read what the worker had sent before its process ended."""
        self._hear_last_words()
        # In the state that the worker had when it sent this: it may just have joined.
        if not self._channel.is_closed:
            self._channel.read_to_end()

    def _hear_last_words(self) -> None:
        self.is_ending = True
        if self._link_server is not None:
            self._link_server.answer_last()
