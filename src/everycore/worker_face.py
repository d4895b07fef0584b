"""`Worker`: a worker as the primary sees it; and `Message`, which names the worker that sent it.

`Worker` is the public face. The driver behind it makes it, and decides. A worker's view of itself is another
class, `WorkerContext`: in one class patched by role, as in Node, every name would mean two things.
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
    """The part of a process that its `Worker` uses."""

    pid: int | None
    stdin: PipeWriter | None
    stdout: PipeReader | None
    stderr: PipeReader | None

    def signal(self, number: int) -> bool:
        """Signal the process. Returns False if it is gone."""


class ReadyState(Protocol):
    """The part of a worker's readiness that its `Worker` uses."""

    is_ready: bool


class ConnectionCount(Protocol):
    """The part of a worker's row on the board that its `Worker` uses."""

    @property
    def open(self) -> int:
        """The number of connections that the worker has now."""


class Driver(Protocol):
    """The part of the driver behind a `Worker` that this uses."""

    identity: WorkerIdentity
    life: Life
    mailbox: Mailbox
    exited: asyncio.Future[ExitStatus]

    @property
    def process(self) -> Process:
        """The process. If it never started, its pid is None."""

    @property
    def readiness(self) -> ReadyState:
        """Whether the worker is given connections."""

    @property
    def listeners(self) -> Emitter:
        """The subscribers to this worker's events."""

    @property
    def grace(self) -> float:
        """How long the worker has to finish its work, in seconds."""

    @property
    def seat(self) -> ConnectionCount:
        """Where the worker counts its connections."""

    def account(self) -> tuple[int, int]:
        """The numbers of connections handed to the worker so far, and of those it has not acknowledged."""

    def disconnect(self, grace: float) -> None:
        """Ask the worker to finish within `grace` seconds and leave."""


class Worker:
    """A worker process. `Cluster.fork()` makes it; programs never construct one.

    `async with cluster.fork() as worker:` ends the worker with the block.
    """

    __slots__ = ("__weakref__", "_driver")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __repr__(self) -> str:
        return f"<Worker {self.id} slot={self.slot} pid={self.pid} {self.state}>"

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """The worker's number. Numbers count up from 1 and are never reused."""
        return self._driver.identity.id

    @property
    def slot(self) -> int:
        """The worker's slot, counted from 0. A replacement inherits it."""
        return self._driver.identity.slot

    @property
    def generation(self) -> int:
        """The worker's generation, which rises with each reload."""
        return self._driver.identity.generation

    @property
    def pid(self) -> int | None:
        """The process id, or None if the process never started."""
        return self._driver.process.pid

    @property
    def state(self) -> State:
        """Where the worker is in its life."""
        return self._driver.life.state

    @property
    def is_ready(self) -> bool:
        """Whether the worker is given connections."""
        return self._driver.readiness.is_ready

    @property
    def exited_voluntarily(self) -> bool:
        """Whether the worker was asked to leave, or asked itself (Node: `exitedAfterDisconnect`)."""
        return self._driver.life.voluntary

    def is_connected(self) -> bool:
        """Whether the worker's channel is open."""
        return self.state not in (State.DISCONNECTED, State.DEAD)

    def is_dead(self) -> bool:
        """Whether the worker's process is gone."""
        return self.state is State.DEAD

    @property
    def stdin(self) -> PipeWriter | None:
        """The worker's standard input, with `stdio="pipe"`."""
        return self._driver.process.stdin

    @property
    def stdout(self) -> PipeReader | None:
        """The worker's standard output, with `stdio="pipe"` or `silent`. Read it, or the worker blocks."""
        return self._driver.process.stdout

    @property
    def stderr(self) -> PipeReader | None:
        """The worker's standard error, with `stdio="pipe"` or `silent`. Read it, or the worker blocks."""
        return self._driver.process.stderr

    # --- messages -----------------------------------------------------------------------------------------

    def send(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> Coroutine[Any, Any, None]:
        """Send `message` to the worker, optionally with a descriptor.

        Returns once the frame is in the socket or fits the channel's buffer. It never waits for the worker to
        handle the message. Unless `keep_open`, `handle` is detached at the call: it belongs to the worker
        from then on.

        Raises: TypeError, OverflowError, ValueError (the message can't be sent, or is too large), OSError
        (the handle is closed), ChannelClosed.
        """
        return self._driver.mailbox.send(message, handle, keep_open=keep_open)

    def send_nowait(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> None:
        """As `send`, but raises ChannelFull where `send` would wait."""
        self._driver.mailbox.send_nowait(message, handle, keep_open=keep_open)

    def request(
        self, message: Any, handle: Any = None, *, timeout: float | None, keep_open: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """Send `message` to the worker's `answer` handler and return its reply.

        `timeout` is in seconds; None waits as long as the worker lives.

        Raises: RequestFailed, RequestTimeout, ChannelClosed, and the errors of `send`.
        """
        return self._driver.mailbox.request(message, handle, timeout=timeout, keep_open=keep_open)

    def answer(self, handler: Handler) -> Subscription:
        """Let `async def handler(message, handle)` answer this worker's requests. Only one may be set."""
        return self._driver.mailbox.answer(handler)

    def messages(self) -> MessageStream:
        """The worker's messages from now on, as an asynchronous iterator of `Message`."""
        return self._driver.mailbox.messages()

    def on(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """Call the plain function `callback` with each event of `kind` about this worker.

        With the kind `Message`, call it with the worker's messages.
        """
        if kind is Message:
            return self._driver.mailbox.on_message(callback)
        return self._driver.listeners.on(kind, callback)

    def once(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """As `on`, for the next event only."""
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
        """Send `signal` to the process. Does nothing if it is gone. The exit does not become voluntary."""
        self._driver.process.signal(signal)

    async def wait(self) -> ExitStatus:
        """Wait until the process is gone. Returns how it ended."""
        return await asyncio.shield(self._driver.exited)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """End the worker with the block: ask it to leave, or, after an error, kill it at once.

        So a fork can be cancelled, or limited in time by `asyncio.timeout()`. (Node: `signal`, `timeout`.)
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
        """The state of the worker at this moment."""
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
    """A message from the other side. It is not a life-cycle event, so only `messages()` and `on` deliver it.

    `handle` is a `socket.socket`, a `Descriptor`, or None. The receiver of the message owns it.
    """

    message: Any
    handle: socket.socket | Descriptor | None = None


#: What `messages()` returns: as `EventStream`, of `Message`.
MessageStream: TypeAlias = Stream[Parcel, Message]
