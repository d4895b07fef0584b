"""`WorkerContext`: a worker's view of itself, the public face of `Session`; no decision is taken here."""

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
    """This process as a worker. Got by `everycore.current_worker()`; never made by hand."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f"<WorkerContext {self.id} slot={self.slot}>"

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """Counts up from 1; never used again."""
        return self._session.ticket.id

    @property
    def slot(self) -> int:
        """From 0; a replacement inherits it."""
        return self._session.ticket.slot

    @property
    def generation(self) -> int:
        """Rises with each reload."""
        return self._session.ticket.generation

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def is_dead(self) -> bool:
        """Always False; present for symmetry with `Worker`."""
        return False

    def is_connected(self) -> bool:
        """Whether the channel is open."""
        return self._session.is_connected

    # --- messages -----------------------------------------------------------------------------------------

    def send(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> Coroutine[Any, Any, None]:
        """Send `message`, and a descriptor with it, to the primary.

        Returns once the frame is in the socket or within the channel's buffer. Unless `keep_open`, `handle`
        is detached at the call.

        Raises: TypeError, OverflowError, ValueError (what can't be sent, or is too large), OSError (a closed
        handle), ChannelClosed.
        """
        return self._session.mailbox.send(message, handle, keep_open=keep_open)

    def send_nowait(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> None:
        """As `send`; raises ChannelFull where that would wait."""
        self._session.mailbox.send_nowait(message, handle, keep_open=keep_open)

    def request(
        self, message: Any, handle: Any = None, *, timeout: float | None, keep_open: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """Send `message` to the primary's `answer` handler and return its reply.

        `timeout`, in seconds, counts from the call; None: no limit.

        Raises: RequestFailed, RequestTimeout, ChannelClosed, and what `send` raises.
        """
        return self._session.mailbox.request(message, handle, timeout=timeout, keep_open=keep_open)

    def answer(self, handler: Handler) -> Subscription:
        """Let `async def handler(message, handle)` answer the primary's requests. One at a time."""
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
        """As `on`, for the next one alone."""
        if kind is events.Message:
            return once(self._session.mailbox.on_message, callback)
        return self._session.emitter.once(kind, callback)

    # --- readiness ----------------------------------------------------------------------------------------

    def hold_ready(self) -> None:
        """Do not count as ready with the first listener; `ready()` will say so."""
        self._session.readiness.hold()

    def ready(self) -> None:
        """Take connections from now on."""
        self._session.readiness.ready()

    # --- leaving ------------------------------------------------------------------------------------------

    def disconnect(self) -> WorkerContext:
        """Finish the work and leave, of this worker's own accord; its exit is voluntary. Returns itself."""
        self._session.disconnect()
        return self

    def kill(self, signal: int = signals.SIGTERM) -> None:
        """Send this process `signal`: not voluntary by this. Node ignores the signal and exits with 0."""
        os.kill(os.getpid(), signal)

    async def wait_shutdown(self) -> None:
        """Return when this worker is to leave, whoever asked; at once if it was asked already.

        Who calls this ends `main` by returning from it; grace is the limit.
        """
        await self._session.asked_to_leave()
