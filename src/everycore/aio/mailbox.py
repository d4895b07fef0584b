"""The program's own messages, for both faces: `send`, `messages()`, `on(Message)`. Requests: `aio.requests`.

Job: values and handles into frames, within the peer's window (`core.window`), and back to whoever takes
them. Invariant: messages of one side are taken in the order of their `send`; a received descriptor has
exactly one owner at any time; a body is decoded only when its consumer takes it. Must not import `primary`
or `worker`.

Who takes a message. Every open `messages()` stream and every callback gets each one; with several takers it
counts as taken, and gives its place in the window back, when the slowest has it. With no taker it waits,
handle and all, for the first. A stream closed with messages left gives them back to the next taker if it
was the only one, so `async for ...: break` and a second loop lose nothing. The *handle* goes to the first
open stream, else to the first callback; the others see None. When the channel is lost, what streams hold is
still theirs; what nobody took stays for a later `messages()`, but its handles are closed, counted in
`dropped_handles`, and warned about once: the other end of a handed over connection must not hang for want
of a reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

import msgspec

from everycore.aio.channel import Channel
from everycore.aio.requests import Requests, take_handle
from everycore.aio.streams import SKIP, Feed, Stream
from everycore.aio.subscriptions import (
    Subscription,
    call_back,
    check_plain,
    log,
    log_failure,
)
from everycore.core import values, wire
from everycore.core.frames import NOTE, encode_frame
from everycore.core.window import Incoming, Outgoing
from everycore.errors import ChannelClosed, ChannelFull, ProtocolError
from everycore.events import Message
from everycore.system.descriptors import close_all, wrap


class Parcel(msgspec.Struct):
    """A message that came, on its way to its takers. A Struct: a third of the cost of a class with slots."""

    body: bytes
    fds: tuple[int, ...]
    owner: Any = None
    left: int = 0
    is_shared: bool = False


class _Callback:
    __slots__ = ("call", "is_active")

    def __init__(self, call: Callable[[Any], object]) -> None:
        self.call = call
        self.is_active = True


MessageFeed: TypeAlias = Feed[Parcel]
#: An asynchronous iterator of messages.
MessageStream: TypeAlias = Stream[Parcel, Message]


class Mailbox:
    """See the module. `channel` must hand Note, Ask, Answer, Failure and Took to `deliver`, and its loss to
    `lost`.

    `make_message(value, handle)` makes what streams yield and callbacks get. `on_handle(handle)` is told of
    each handle that is about to be given to the program, with a message or with a request.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        loop: asyncio.AbstractEventLoop,
        make_message: Callable[[Any, Any], Any],
        on_handle: Callable[[Any], None] | None = None,
        serialization: str = "json",
    ) -> None:
        #: How the peer ended, for `ChannelClosed`; set by the face when it learns it.
        self.peer_status: Any = None
        #: Handles that came and that nobody took.
        self.dropped_handles = 0
        self._channel = channel
        self._outbox = channel.outbox
        self._max_message = channel.max_message
        self._loop = loop
        self._make_message = make_message
        self._on_handle = on_handle
        self._is_pickle = serialization == "pickle"
        self._encode = values.encode_pickle if self._is_pickle else values.encode_json
        self._decode = values.decode_pickle if self._is_pickle else values.decode_json
        self._is_lost = False

        self._outgoing = Outgoing()
        self._held: deque[tuple[bytes, int, tuple[int, ...]]] = deque()  # beyond the window
        self._incoming = Incoming()
        self._feeds: list[MessageFeed] = []
        #: The only taker, if that is a callback and nothing waits; see `_find_only`.
        self._only: Callable[[Any], object] | None = None
        self._callbacks: list[_Callback] = []
        self._backlog: deque[Parcel] = deque()
        self._is_drain_due = False

        channel.on_note = self._note
        self._requests = Requests(self, channel, loop)
        #: `request(message, handle=None, *, timeout, keep_open=False)` and `answer(handler)`: see `Requests`.
        self.request = self._requests.request
        self.answer = self._requests.answer

    # --- sending ----------------------------------------------------------------------------------

    def send(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> Coroutine[Any, Any, None]:
        """Send at the call, then, when awaited, wait until that is within the buffer limit.

        Whatever is wrong raises at the call. Not an `async def`: a task made of one would duplicate the
        handle only when it first runs. Cancelling the wait does not take the message back.
        """
        self._send_note(message, handle, keep_open)
        return self.wait_room() if self._outbox.is_full else _sent()

    def send_nowait(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> None:
        """Send, or raise ChannelFull; then the handle was not touched."""
        outbox = self._outbox
        if outbox.waiting >= outbox.buffer_limit:
            raise ChannelFull(self._channel.peer, outbox.waiting)
        self._send_note(message, handle, keep_open)

    async def wait_room(self) -> None:
        """Return when `send_nowait` would find room; ChannelClosed if there will be none."""
        try:
            await self._channel.wait_room()
        except ChannelClosed as closed:
            raise ChannelClosed(closed.peer, self.peer_status) from None

    async def flush(self) -> None:
        """Return once everything sent is in the socket, or the channel is closed."""
        await self._channel.flush()

    def _send_note(self, message: Any, handle: Any, keep_open: bool) -> None:
        """Hot."""
        if self._outbox.is_closed:
            self.check_open()
        body = self._encode(message)
        size = len(body)
        if size > self._max_message:
            raise self._too_large(size)
        fds = () if handle is None else take_handle(handle, keep_open=keep_open)
        frame = encode_frame(body, len(fds), NOTE)
        if not self._held and self._outgoing.try_send(size):
            self._outbox.put(frame, fds)
        else:
            self._hold(frame, size, fds)

    def encode(self, message: Any) -> bytes:
        """The body of `message`. Raises what is wrong with it."""
        body = self._encode(message)
        if len(body) > self._max_message:
            raise self._too_large(len(body))
        return body

    def _too_large(self, size: int) -> ValueError:
        return ValueError(f"a message of {size} bytes; at most {self._max_message} are allowed")

    def submit(self, frame: bytes, size: int, fds: tuple[int, ...]) -> None:
        """Send the frame of a note or request with a body of `size` bytes, now or when the window allows."""
        if not self._held and self._outgoing.try_send(size):
            self._outbox.put(frame, fds)
        else:
            self._hold(frame, size, fds)

    def _hold(self, frame: bytes, size: int, fds: tuple[int, ...]) -> None:
        self._held.append((frame, size, fds))
        self._outbox.hold(len(frame))

    def _took(self, message: wire.Took) -> None:
        self._outgoing.took(message.count, message.size)
        held, try_send, put = self._held, self._outgoing.try_send, self._outbox.put_held
        while held and try_send(held[0][1]):
            frame, _, fds = held.popleft()
            put(frame, fds)

    def check_open(self) -> None:
        if self._channel.is_closed:
            raise ChannelClosed(self._channel.peer, self.peer_status)

    # --- receiving ----------------------------------------------------------------------------------

    def deliver(self, message: Any, fds: tuple[int, ...]) -> bool:
        """Take a wire message of the channel, and its descriptors; False if it is not one of a mailbox."""
        kind = type(message)
        if kind is wire.Note:
            self._note(message.body, fds)
        elif kind is wire.Ask:
            self._arrived(message.body, fds)
            self._requests.asked(message, fds)
        elif kind is wire.Answer or kind is wire.Failure:
            self._no_descriptors(fds)
            self._requests.replied(message)
        elif kind is wire.Took:
            self._no_descriptors(fds)
            self._took(message)
        else:
            return False
        return True

    def _note(self, body: bytes, fds: tuple[int, ...]) -> None:
        """A note came. Hot: with one callback and nobody else, it is decoded and given to that here."""
        only = self._only
        if only is None or fds:
            self._arrived(body, fds)
            parcel = Parcel(body, fds)
            if self._backlog or not (self._feeds or self._callbacks):
                self._backlog.append(parcel)
                self._only = None
            else:
                self._distribute(parcel)
            return
        report = self._incoming.passed(len(body))
        if report is not None:
            self._report(report)
        try:
            value = self._decode(body)
        except Exception as error:
            self._undecodable(error)
            return
        message = self._make_message(value, None)
        try:
            only(message)
        except Exception as error:
            log_failure(only, message, error)

    def _find_only(self) -> None:
        """To be called whenever a taker came or went, or the backlog became empty."""
        is_only = len(self._callbacks) == 1 and not (self._feeds or self._backlog)
        self._only = self._callbacks[0].call if is_only else None

    def _arrived(self, body: bytes, fds: tuple[int, ...]) -> None:
        if len(fds) > 1:
            close_all(fds)
            raise ProtocolError(f"a message with {len(fds)} descriptors; one is allowed")
        try:
            self._incoming.arrived(len(body))
        except ProtocolError:
            close_all(fds)
            raise

    def _no_descriptors(self, fds: tuple[int, ...]) -> None:
        if fds:
            close_all(fds)
            raise ProtocolError("descriptors came with a message that has no use for them")

    def messages(self) -> MessageStream:
        """A stream of all messages from now on, and of those that nobody has taken yet."""
        feed: MessageFeed = Feed()
        stream = Stream(feed, partial(self._take, feed), self._forget)
        if self._is_lost:
            while self._backlog:
                self._address(parcel := self._backlog.popleft(), [feed], [])
                feed.push(parcel)
            feed.end()
        else:
            self._feeds.append(feed)
            self._only = None
            self._drain_soon()
        return stream

    def on_message(self, callback: Callable[[Any], object]) -> Subscription:
        """Call `callback` with each message; plain functions only."""
        check_plain(callback)
        entry = _Callback(callback)
        self._callbacks.append(entry)
        self._find_only()
        self._drain_soon()
        return Subscription(partial(self._cancel, entry))

    def _cancel(self, entry: _Callback) -> None:
        entry.is_active = False
        self._callbacks.remove(entry)
        self._find_only()

    def _drain_soon(self) -> None:
        if self._backlog and not self._is_drain_due:
            self._is_drain_due = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._is_drain_due = False
        while self._backlog and (self._feeds or self._callbacks):
            self._distribute(self._backlog.popleft())
        self._find_only()

    def _distribute(self, parcel: Parcel) -> None:
        feeds, callbacks = self._feeds, self._callbacks
        self._address(parcel, feeds, callbacks)
        for feed in feeds:
            feed.push(parcel)
        for entry in tuple(callbacks):
            message = self._take(entry, parcel) if entry.is_active else self._pass_by(entry, parcel)
            if message is not SKIP:
                call_back(entry.call, message)

    def _address(self, parcel: Parcel, feeds: list[MessageFeed], callbacks: list[_Callback]) -> None:
        parcel.left = len(feeds) + len(callbacks)
        parcel.is_shared = parcel.left > 1
        if parcel.fds:
            parcel.owner = feeds[0] if feeds else callbacks[0]

    def _take(self, taker: Any, parcel: Parcel) -> Any:
        """The message for `taker`; SKIP if it can't be decoded."""
        handle = None
        if parcel.fds and parcel.owner is taker:
            handle, parcel.fds = wrap(parcel.fds[0]), ()
        try:
            value = self.decode(parcel.body, handle)
        except Exception:
            return SKIP
        finally:
            parcel.left -= 1
            if not parcel.left:
                self.taken(len(parcel.body))
        return self._make_message(value, handle)

    def _pass_by(self, taker: Any, parcel: Parcel) -> Any:
        """`taker` will not take `parcel` any more."""
        if parcel.owner is taker:
            self._drop_handle(parcel)
        parcel.left -= 1
        if not parcel.left:
            self.taken(len(parcel.body))
        return SKIP

    def taken(self, size: int) -> None:
        """A message of `size` bytes has been taken by all."""
        report = self._incoming.taken(size)
        if report is not None:
            self._report(report)

    def _report(self, report: tuple[int, int]) -> None:
        if not self._is_lost:
            self._channel.post(wire.Took(*report))
            self._outbox.send_now()  # the peer may wait for nothing else

    def decode(self, body: bytes, handle: Any) -> Any:
        """The value of `body`; if that fails `handle` is closed."""
        try:
            value = self._decode(body)
        except Exception as error:
            if handle is not None:
                handle.close()
            self._undecodable(error)
            raise
        if handle is not None and self._on_handle is not None:
            self._on_handle(handle)
        return value

    def _undecodable(self, error: Exception) -> None:
        if self._is_pickle:
            # Its class may be missing here, or its code failed: the program's affair, not the protocol's.
            log.error(
                "a message of %s could not be decoded and is dropped", self._channel.peer, exc_info=error
            )
        else:
            self._channel.fail(ProtocolError(f"a value of {self._channel.peer} can't be understood: {error}"))

    def _forget(self, feed: MessageFeed) -> None:
        """A stream was closed, or its user let go of it."""
        if feed in self._feeds:
            self._feeds.remove(feed)
        has_takers = bool(self._feeds or self._callbacks)
        kept = []
        for parcel in feed.items:
            if parcel.is_shared or has_takers:
                self._pass_by(feed, parcel)
            else:
                parcel.owner = None
                kept.append(parcel)
                if self._is_lost:
                    self._drop_handle(parcel)
        feed.items.clear()
        self._backlog.extendleft(reversed(kept))
        self._find_only()

    def _drop_handle(self, parcel: Parcel) -> None:
        if not parcel.fds:
            return
        close_all(parcel.fds)
        parcel.fds = ()
        self.dropped_handles += 1
        if self.dropped_handles == 1:
            log.warning("a handle that %s sent was taken by nobody and is closed", self._channel.peer)

    # --- the end ----------------------------------------------------------------------------------

    def lost(self) -> None:
        """The channel is gone: streams end after what they hold, requests fail. Again: nothing happens.

        Set `peer_status` before, if it is known: `ChannelClosed` carries it.
        """
        if self._is_lost:
            return
        self._drain()
        self._is_lost = True
        for parcel in self._backlog:
            self._drop_handle(parcel)
        feeds, self._feeds = self._feeds, []
        for feed in feeds:
            feed.end()
        for _, _, fds in self._held:
            close_all(fds)
        self._held.clear()
        self._requests.lost()

    def close(self) -> None:
        """Leave nothing: as `lost`, and the channel is closed and running handlers are cancelled."""
        self._channel.close()
        self.lost()
        self._requests.cancel()


async def _sent() -> None:
    """What `send` returns when there is nothing to wait for."""
