"""`WorkerContext`: a worker's view of itself. It is the public face of `Session` and decides nothing."""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from everycore import events
from everycore.aio.subscriptions import Subscription, once

if TYPE_CHECKING:
    from everycore.aio.requests import Handler
    from everycore.worker.session import Session
    from everycore.worker_face import MessageStream

E = TypeVar("E", bound=events.Event)


class WorkerContext:
    """This process as a worker. `everycore.current_worker()` returns it; programs never construct one."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f"<WorkerContext {self.id} slot={self.slot}>"

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """This worker's number. Numbers count up from 1 and are never reused."""
        return self._session.ticket.id

    @property
    def slot(self) -> int:
        """This worker's slot, counted from 0. A replacement inherits it."""
        return self._session.ticket.slot

    @property
    def generation(self) -> int:
        """This worker's generation, which rises with each reload."""
        return self._session.ticket.generation

    @property
    def pid(self) -> int:
        """This process's id."""
        return os.getpid()

    def is_dead(self) -> bool:
        """Always False; present for symmetry with `Worker`."""
        return False

    def is_connected(self) -> bool:
        """Whether the channel is open."""
        return self._session.is_connected

    # --- messages -----------------------------------------------------------------------------------------

    def send(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> Coroutine[Any, Any, None]:
        """Send `message`, optionally with a descriptor, to the primary.

        Returns once the frame is in the socket or fits the channel's buffer. Unless `keep_open`, `handle` is
        detached at the call.

        Raises: TypeError, OverflowError, ValueError (the message can't be sent, or is too large), OSError
        (the handle is closed), ChannelClosed.
        """
        return self._session.mailbox.send(message, handle, keep_open=keep_open)

    def send_nowait(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> None:
        """As `send`, but raises ChannelFull where `send` would wait."""
        self._session.mailbox.send_nowait(message, handle, keep_open=keep_open)

    def request(
        self, message: Any, handle: Any = None, *, timeout: float | None, keep_open: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """Send `message` to the primary's `answer` handler and return its reply.

        `timeout`, in seconds, counts from the call; None means no limit.

        Raises: RequestFailed, RequestTimeout, ChannelClosed, and the errors of `send`.
        """
        return self._session.mailbox.request(message, handle, timeout=timeout, keep_open=keep_open)

    def answer(self, handler: Handler) -> Subscription:
        """Let `async def handler(message, handle)` answer the primary's requests. Only one may be set."""
        return self._session.mailbox.answer(handler)

    def messages(self) -> MessageStream:
        """The primary's messages from now on, as an asynchronous iterator of `Message`."""
        return self._session.mailbox.messages()

    def on(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """Call the plain function `callback` with each `Message`, or when this worker is `Disconnected`."""
        if kind is events.Message:
            return self._session.mailbox.on_message(callback)
        return self._session.emitter.on(kind, callback)

    def once(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """As `on`, for the next event only."""
        if kind is events.Message:
            return once(self._session.mailbox.on_message, callback)
        return self._session.emitter.once(kind, callback)

    # --- readiness ----------------------------------------------------------------------------------------

    def hold_ready(self) -> None:
        """Do not count as ready with the first listener: `ready()` will declare it."""
        self._session.readiness.hold()

    def ready(self) -> None:
        """Take connections from now on."""
        self._session.readiness.ready()

    # --- leaving ------------------------------------------------------------------------------------------

    def disconnect(self) -> WorkerContext:
        """Finish the work and leave of this worker's own accord. The exit is voluntary. Returns itself."""
        self._session.disconnect()
        return self

    def kill(self, signal: int = signals.SIGTERM) -> None:
        """Send `signal` to this process. The exit does not count as voluntary for that.

        Node's `worker.kill()` ignores the signal and exits with 0.
        """
        os.kill(os.getpid(), signal)

    async def wait_shutdown(self) -> None:
        """Return when this worker is to leave, whoever asked; at once if it was asked already.

        A program that awaits this ends by returning from `main`, and has until the grace is over.
        """
        await self._session.asked_to_leave()
