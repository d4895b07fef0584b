"""`Worker`: a worker as the primary sees it; and a `Message`, which names the worker that sent it.

The public face; the driver behind it made it, and decides. A worker's view of itself is another class,
`WorkerContext`: one class patched by role, as in Node, means two things by every name.
"""

from __future__ import annotations

import asyncio
import signal as signals
import socket
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from everycore.aio.delivery import Parcel
from everycore.aio.emitter import Emitter
from everycore.aio.mailbox import Mailbox
from everycore.aio.pipes import PipeReader, PipeWriter
from everycore.aio.requests import Handler
from everycore.aio.streams import Stream
from everycore.aio.subscriptions import Subscription, once
from everycore.aio.waiting import see_through
from everycore.core.lifecycle import Life
from everycore.model import Event, ExitStatus, State, WorkerIdentity, WorkerSnapshot
from everycore.system.descriptors import Descriptor

E = TypeVar("E", bound=Event)


class Process(Protocol):
    """The process behind a `Worker`, as that knows it."""

    pid: int | None
    stdin: PipeWriter | None
    stdout: PipeReader | None
    stderr: PipeReader | None

    def signal(self, number: int) -> bool:
        """Signal the process; False if it is gone."""


class ReadyState(Protocol):
    """The readiness of a worker, as its `Worker` knows it."""

    is_ready: bool


class ConnectionCount(Protocol):
    """A worker's place on the board, as its `Worker` knows it."""

    @property
    def open(self) -> int:
        """Connections that the worker has now."""


class Driver(Protocol):
    """What stands behind a `Worker`, as that knows it."""

    identity: WorkerIdentity
    life: Life
    mailbox: Mailbox
    exited: asyncio.Future[ExitStatus]

    @property
    def process(self) -> Process:
        """The process; one that never started has no number."""

    @property
    def readiness(self) -> ReadyState:
        """Whether the worker is given connections."""

    @property
    def listeners(self) -> Emitter:
        """Those of this worker's events."""

    @property
    def grace(self) -> float:
        """Seconds that the worker has to finish its work."""

    @property
    def seat(self) -> ConnectionCount:
        """Where the worker counts its connections."""

    def account(self) -> tuple[int, int]:
        """Connections handed to the worker so far, and those it has not acknowledged."""

    def disconnect(self, grace: float) -> None:
        """Ask the worker to finish within `grace` seconds and leave."""


class Worker:
    """A worker process. Made by `Cluster.fork()`; never by hand.

    `async with cluster.fork() as worker:` ends it with the block.
    """

    __slots__ = ("__weakref__", "_driver")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __repr__(self) -> str:
        return f"<Worker {self.id} slot={self.slot} pid={self.pid} {self.state}>"

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """Counts up from 1; never used again."""
        return self._driver.identity.id

    @property
    def slot(self) -> int:
        """From 0; a replacement inherits it."""
        return self._driver.identity.slot

    @property
    def generation(self) -> int:
        """Rises with each reload."""
        return self._driver.identity.generation

    @property
    def pid(self) -> int | None:
        """The process id; None if it never started."""
        return self._driver.process.pid

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._driver.life.state

    @property
    def is_ready(self) -> bool:
        """Whether it is given connections."""
        return self._driver.readiness.is_ready

    @property
    def exited_voluntarily(self) -> bool:
        """Whether it was asked to leave, or asked itself (Node: `exitedAfterDisconnect`)."""
        return self._driver.life.voluntary

    def is_connected(self) -> bool:
        """Whether its channel is open."""
        return self.state not in (State.DISCONNECTED, State.DEAD)

    def is_dead(self) -> bool:
        """Whether its process is gone."""
        return self.state is State.DEAD

    @property
    def stdin(self) -> PipeWriter | None:
        """Its standard input, with `stdio="pipe"`."""
        return self._driver.process.stdin

    @property
    def stdout(self) -> PipeReader | None:
        """Its standard output, with `stdio="pipe"` or `silent`. It must be read, or the worker blocks."""
        return self._driver.process.stdout

    @property
    def stderr(self) -> PipeReader | None:
        """Its standard error, with `stdio="pipe"` or `silent`. It must be read, or the worker blocks."""
        return self._driver.process.stderr

    # --- messages -----------------------------------------------------------------------------------------

    def send(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> Coroutine[Any, Any, None]:
        """Send `message`, and a descriptor with it.

        Returns once the frame is in the socket or within the channel's buffer; it never waits for the
        worker to handle it. Unless `keep_open`, `handle` is detached at the call: it is the worker's from
        then on.

        Raises: TypeError, OverflowError, ValueError (what can't be sent, or is too large), OSError (a closed
        handle), ChannelClosed.
        """
        return self._driver.mailbox.send(message, handle, keep_open=keep_open)

    def send_nowait(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> None:
        """As `send`; raises ChannelFull where that would wait."""
        self._driver.mailbox.send_nowait(message, handle, keep_open=keep_open)

    def request(
        self, message: Any, handle: Any = None, *, timeout: float | None, keep_open: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """Send `message` to the worker's `answer` handler and return its reply.

        `timeout` is in seconds; None waits as long as the worker lives.

        Raises: RequestFailed, RequestTimeout, ChannelClosed, and what `send` raises.
        """
        return self._driver.mailbox.request(message, handle, timeout=timeout, keep_open=keep_open)

    def answer(self, handler: Handler) -> Subscription:
        """Let `async def handler(message, handle)` answer this worker's requests. One at a time."""
        return self._driver.mailbox.answer(handler)

    def messages(self) -> MessageStream:
        """The worker's messages from now on, as an asynchronous iterator of `Message`."""
        return self._driver.mailbox.messages()

    def on(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """Call the plain function `callback` with each event of `kind` about this worker.

        Or with its messages.
        """
        if kind is Message:
            return self._driver.mailbox.on_message(callback)
        return self._driver.listeners.on(kind, callback)

    def once(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """As `on`, for the next one alone."""
        if kind is Message:
            return once(self._driver.mailbox.on_message, callback)
        return self._driver.listeners.once(kind, callback)

    # --- orders -------------------------------------------------------------------------------------------

    def disconnect(self) -> Worker:
        """Ask the worker to finish its work and leave, within the cluster's grace.

        Returns the worker itself.
        """
        self._driver.disconnect(self._driver.grace)
        return self

    def kill(self, signal: int = signals.SIGTERM) -> None:
        """Send the process `signal`; nothing happens if it is gone. The exit is not voluntary by this."""
        self._driver.process.signal(signal)

    async def wait(self) -> ExitStatus:
        """Wait until the process is gone; returns how it ended."""
        return await asyncio.shield(self._driver.exited)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """The worker does not outlive the block: asked to leave, or, after an error, killed at once.

        That is how a fork is cancelled, or limited in time by `asyncio.timeout()`. (Node: `signal`,
        `timeout`.)
        """
        if kind is None:
            self.disconnect()
            try:
                await self.wait()
            except asyncio.CancelledError:
                await self._end()
                raise
        else:
            await self._end()

    async def _end(self) -> None:
        self.kill(signals.SIGKILL)
        await see_through(self._driver.exited)

    def snapshot(self) -> WorkerSnapshot:
        """The worker at this moment."""
        handed_over, outstanding = self._driver.account()
        return WorkerSnapshot(
            id=self.id,
            slot=self.slot,
            generation=self.generation,
            pid=self.pid,
            state=self.state,
            is_ready=self.is_ready,
            handed_over=handed_over,
            outstanding=outstanding,
            open=self._driver.seat.open,
        )


class WorkerEvent(Event, frozen=True, kw_only=True):
    """An event about one worker: the `Worker`, or, inside the worker itself, its `WorkerContext`."""

    worker: Worker


class Message(WorkerEvent, frozen=True, kw_only=True):
    """A message of the other side: not a life-cycle event, so it comes only to `messages()` and `on`.

    `handle` is a `socket.socket`, a `Descriptor`, or None; whoever takes the message owns it.
    """

    message: Any
    handle: socket.socket | Descriptor | None = None


#: An asynchronous iterator of messages.
MessageStream: TypeAlias = Stream[Parcel, Message]
