"""Requests over a channel: `request` at one end, `answer` at the other.

Match replies to the callers that wait, run the handler, and turn its result or error into an answer.
Invariant: each request is answered exactly once, unless the channel ends. A handler's error reaches its
caller and never this process.

A request counts as taken when its answer is sent, and no request is begun while the channel is full of
answers. A peer therefore has at most a window of requests open, and a peer that asks and never reads costs no
more memory than that.

Hot: one timer serves all requests (`_sweep`), because setting and cancelling a timer costs as much as
sending. Rejected: eager tasks, where Python has them. They take a fifth less CPU, but run a handler while the
channel is being read, before the callbacks that the program had scheduled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from operator import itemgetter
from typing import Any, Final, Protocol, TypeAlias

from everycore.aio.channel import Channel
from everycore.aio.subscriptions import Subscription, is_coroutine_function, name_of
from everycore.core import wire
from everycore.core.frames import encode_frame
from everycore.errors import ChannelClosed, ProtocolError, RequestFailed, RequestTimeout
from everycore.settings import check_seconds
from everycore.system.descriptors import close_all, close_sent, duplicate, fileno_of, wrap

#: The type of what `answer` takes: `async def handler(message, handle) -> reply`.
Handler: TypeAlias = Callable[[Any, Any], Awaitable[Any]]

_NOBODY: Final = "nobody answers requests there: answer(handler) was not called, or was cancelled"
_TEXT_LIMIT: Final = 2000  # characters of an error's text: more helps nobody, and it has to fit a frame


class MailboxInterface(Protocol):
    """The part of a mailbox that its requests need."""

    peer_status: Any

    def check_open(self) -> None: ...
    def encode(self, message: Any) -> bytes: ...
    def decode(self, body: bytes, handle: Any) -> Any: ...
    def submit(self, frame: bytes, size: int, fds: tuple[int, ...]) -> None: ...
    def taken(self, size: int) -> None: ...
    def handle_taken(self) -> None: ...


class Requests:
    """See the module."""

    def __init__(self, mailbox: MailboxInterface, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._mailbox = mailbox
        self._channel = channel
        self._loop = loop
        self._last_number = 0
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._deadlines: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._handler: Handler | None = None
        self._handling: set[_Handling] = set()

    def request(
        self, message: Any, handle: Any = None, *, timeout: float | None, keep_open: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """Send the request at once. When awaited, return the answer.

        `timeout`, in seconds, runs from the call. None sets no limit.
        """
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        self._mailbox.check_open()
        body = self._mailbox.encode(message)
        fds = () if handle is None else take_handle(handle, keep_open=keep_open)
        self._last_number = number = self._last_number + 1
        self._replies[number] = reply = self._loop.create_future()
        if timeout is not None:
            self._watch(number, self._loop.time() + timeout)
        frame = encode_frame(wire.encode(wire.Ask(number, body)), len(fds))
        self._mailbox.submit(frame, len(body), fds)
        return self._reply(number, reply, timeout)

    async def _reply(self, number: int, future: asyncio.Future[Any], timeout: float | None) -> Any:
        try:
            reply = await future
        finally:
            self._replies.pop(number, None)
            self._deadlines.pop(number, None)
        if type(reply) is wire.Answer:
            try:
                return self._mailbox.decode(reply.body, None)
            except Exception as error:
                raise RequestFailed(type(error).__name__, f"the answer can't be decoded: {error}") from error
        if type(reply) is wire.Failure:
            raise RequestFailed(reply.type_name, reply.text)
        if reply is TimeoutError:
            raise RequestTimeout(self._channel.peer, timeout or 0.0)
        raise ChannelClosed(self._channel.peer, self._mailbox.peer_status)

    def _watch(self, number: int, due: float) -> None:
        self._deadlines[number] = due
        if self._timer is None or due < self._timer_due:
            self._set_timer(due)

    def _set_timer(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if due is not None:
            self._timer_due = due
            self._timer = self._loop.call_at(due, self._sweep)

    def _sweep(self) -> None:
        """End the requests that are overdue, earliest first, and set the timer to the next deadline.

        The timer stays when its request ends, so that most requests find one that is early enough.
        """
        now = max(self._loop.time(), self._timer_due)  # a timer may come a little early
        for number, due in sorted(self._deadlines.items(), key=itemgetter(1)):
            if due > now:
                break
            del self._deadlines[number]
            future = self._replies.pop(number, None)
            if future is not None and not future.done():
                future.set_result(TimeoutError)
        self._set_timer(min(self._deadlines.values(), default=None))

    def replied(self, message: wire.Answer | wire.Failure) -> None:
        """A reply arrived."""
        future = self._replies.pop(message.number, None)
        if future is not None:
            self._deadlines.pop(message.number, None)
            if not future.done():
                future.set_result(message)
        elif not 0 < message.number <= self._last_number:
            raise ProtocolError(f"an answer to request {message.number}, which was never made")
        # Else its caller has given up.

    def answer(self, handler: Handler) -> Subscription:
        """Answer requests with `await handler(message, handle)`, each in a task of its own.

        Raises: TypeError for another kind of function; RuntimeError if a handler is set already.
        """
        check_handler(handler)
        if self._handler is not None:
            raise RuntimeError(f"{name_of(self._handler)} answers already; cancel it first")
        self._handler = handler
        return Subscription(self._stop_answering)

    def _stop_answering(self) -> None:
        self._handler = None

    def asked(self, ask: wire.Ask, fds: tuple[int, ...]) -> None:
        """A request arrived, with at most one descriptor."""
        self._handling.add(_Handling(self, ask, wrap(fds[0]) if fds else None, loop=self._loop))

    async def run_handler(self, task: _Handling, ask: wire.Ask, handle: Any) -> None:
        """Run the handler for `ask`. This is the coroutine of `task`."""
        if task.is_over:  # it was cancelled, and the cancellation was then undone
            return
        task.is_begun = True
        reply: wire.Answer | wire.Failure
        is_begun = False
        outbox, mailbox = self._channel.outbox, self._mailbox
        try:
            if outbox.is_full:
                await outbox.wait_room()
            if handle is not None:
                mailbox.handle_taken()
            handler = self._handler
            if handler is None:
                raise LookupError(_NOBODY)
            value = mailbox.decode(ask.body, handle)
            is_begun = True
            reply = wire.Answer(ask.number, mailbox.encode(await handler(value, handle)))
        except BaseException as error:
            if handle is not None and not is_begun:  # from then on the handler owns it
                handle.close()
            reply = wire.Failure(ask.number, type(error).__name__[:_TEXT_LIMIT], _text_of(error))
            if not isinstance(error, Exception):  # a cancellation or SystemExit must go on
                self.finish(task, ask, reply)
                raise
        self.finish(task, ask, reply)

    def finish(self, task: _Handling, ask: wire.Ask, reply: wire.Answer | wire.Failure) -> None:
        """Send the reply to `ask`, which `task` handles."""
        self._handling.discard(task)
        self._channel.outbox.put(encode_frame(wire.encode(reply)))
        self._mailbox.taken(len(ask.body))

    def lost(self) -> None:
        """The channel is lost: requests fail. Running handlers continue, and their answers are dropped."""
        self._deadlines.clear()
        self._set_timer(None)
        replies, self._replies = self._replies, {}
        for future in replies.values():
            if not future.done():
                future.set_result(None)

    def cancel(self) -> None:
        """Cancel the running handlers."""
        for task in tuple(self._handling):
            task.cancel()


class _Handling(asyncio.Task[None]):
    """The task that handles one request.

    A task that is cancelled before its first step runs nothing of its coroutine, not even a `finally`. So the
    answer is sent in `cancel`. Rejected: a done callback, which costs each request a turn of the loop, a
    tenth of its time. `loop.create_task` is bypassed, and with it the task factory: an eager one would run a
    handler while the channel is being read.
    """

    def __init__(
        self, requests: Requests, ask: wire.Ask, handle: Any, *, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.is_begun = self.is_over = False
        self._pending = (requests, ask, handle)
        super().__init__(requests.run_handler(self, ask, handle), loop=loop)

    def cancel(self, msg: Any = None) -> bool:
        """As `Task.cancel`. Before the first step, this answers the request and closes its handle."""
        is_cancelled = super().cancel(msg)
        if is_cancelled and not (self.is_begun or self.is_over):
            self.is_over = True
            requests, ask, handle = self._pending
            if handle is not None:
                handle.close()
            requests.finish(self, ask, wire.Failure(ask.number, "CancelledError", ""))
        return is_cancelled


def check_handler(handler: Any) -> None:
    """Raise TypeError unless `handler` is a coroutine function."""
    if not is_coroutine_function(handler):
        raise TypeError(f"a handler must be a coroutine function (async def), not {name_of(handler)}")


def take_handle(handle: Any, *, keep_open: bool) -> tuple[int, ...]:
    """Return a duplicate of the descriptor. Unless `keep_open`, the sender's object is closed."""
    copy = duplicate(fileno_of(handle))
    if not keep_open:
        try:
            close_sent(handle)
        except BaseException:
            close_all((copy,))
            raise
    return (copy,)


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = "(its text could not be made)"
    return text[:_TEXT_LIMIT].encode("utf-8", "replace").decode()
