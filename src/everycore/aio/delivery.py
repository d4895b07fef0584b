"""Received messages on their way to the program: `messages()` and `on(Message)`.

* Every open `messages()` stream and every callback takes each message. With several takers a message counts
  as taken, and gives its place in the window back, when the slowest of them has it.
* Without a taker a message and its handle wait for the first one. If the only stream is closed with messages
  left, the next taker gets them: `async for ...: break` followed by a second loop loses nothing.
* The *handle* goes to the first open stream, or else to the first callback. The other takers see None.
* When the channel is lost, streams keep the messages they hold. Messages that nobody took stay for a later
  `messages()`, but their handles are closed, counted in `dropped_handles`, and warned about once: the other
  end of a connection that was handed over must not hang for want of a reader.

Invariant: a received descriptor has exactly one owner at any time. A body is decoded only when its consumer
takes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import msgspec

from everycore.aio.channel import Channel
from everycore.aio.streams import SKIP, Feed, Stream
from everycore.aio.subscriptions import Subscription, call_back, check_plain, log, log_failure
from everycore.core import values, wire
from everycore.core.window import Incoming, Report
from everycore.errors import ProtocolError
from everycore.system.descriptors import wrap
from everycore.system.strange import close_strange


class Parcel(msgspec.Struct):
    """A received message on its way to its takers. A Struct costs a third of a class with slots."""

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


class Delivery:
    """The receiving half of a `Mailbox`.

    `make_message(value, handle)` makes what streams yield and callbacks get. `on_handle(handle)` is called
    with each handle that is about to be given to the program, with a message or with a request.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        loop: asyncio.AbstractEventLoop,
        make_message: Callable[[Any, Any], Any],
        on_handle: Callable[[Any], None] | None,
        is_pickle: bool,
    ) -> None:
        #: Handles that arrived and that nobody took.
        self.dropped_handles = 0
        self._channel = channel
        self._loop = loop
        self._make_message = make_message
        self._on_handle = on_handle
        self._is_pickle = is_pickle
        self._decode = values.decode_pickle if is_pickle else values.decode_json
        self._is_lost = False
        self._incoming = Incoming()
        self._feeds: list[MessageFeed] = []
        #: The only taker, if it is a callback and nothing waits; see `_find_only`.
        self._only: Callable[[Any], object] | None = None
        self._callbacks: list[_Callback] = []
        self._backlog: deque[Parcel] = deque()
        self._is_drain_due = False

    # --- arriving -----------------------------------------------------------------------------------------

    def note(self, body: bytes, fds: tuple[int, ...]) -> None:
        """A note arrived. Hot: if a callback is the only taker, the note is decoded and given to it here."""
        only = self._only
        if only is None or fds:
            self.arrived(body, fds)
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
        """Call this whenever a taker came or went, or the backlog became empty."""
        is_only = len(self._callbacks) == 1 and not (self._feeds or self._backlog)
        self._only = self._callbacks[0].call if is_only else None

    def arrived(self, body: bytes, fds: tuple[int, ...]) -> None:
        """Let a message into the window. Raises ProtocolError, after closing the descriptors."""
        if len(fds) > 1:
            close_strange(fds)
            raise ProtocolError(f"a message with {len(fds)} descriptors; one is allowed")
        try:
            self._incoming.arrived(len(body), len(fds))
        except ProtocolError:
            close_strange(fds)
            raise

    # --- taking -------------------------------------------------------------------------------------------

    def messages(self) -> Stream[Parcel, Any]:
        """Return a stream of the messages that nobody has taken yet, and of all that follow."""
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
        """Call `callback`, which must be a plain function, with each message."""
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
        """Return the message for `taker`, or SKIP if it can't be decoded."""
        handle = None
        if parcel.fds and parcel.owner is taker:
            handle, parcel.fds = wrap(parcel.fds[0]), ()
            self.handle_taken()
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
        """`taker` will not take `parcel`."""
        if parcel.owner is taker:
            self._drop_handle(parcel)
        parcel.left -= 1
        if not parcel.left:
            self.taken(len(parcel.body))
        return SKIP

    def taken(self, size: int) -> None:
        """Every taker has taken a message of `size` bytes."""
        report = self._incoming.taken(size)
        if report is not None:
            self._report(report)

    def handle_taken(self) -> None:
        """A handle was given to the program, or closed."""
        report = self._incoming.handle_taken()
        if report is not None:
            self._report(report)

    def _report(self, report: Report) -> None:
        if not self._is_lost:
            self._channel.post(wire.Took(*report))
            self._channel.outbox.send_now()  # the peer may wait for this alone

    def decode(self, body: bytes, handle: Any) -> Any:
        """Return the value of `body`. If decoding fails, `handle` is closed and the error raised."""
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
            # The value's class may be missing here, or its code failed: the program's error, not the peer's.
            log.error(
                "a message from %s could not be decoded and is dropped", self._channel.peer, exc_info=error
            )
        else:
            self._channel.fail(ProtocolError(f"a value of {self._channel.peer} can't be understood: {error}"))

    def _forget(self, feed: MessageFeed) -> None:
        """A stream was closed, or its user dropped it."""
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
        close_strange(parcel.fds)
        parcel.fds = ()
        self.handle_taken()
        self.dropped_handles += 1
        if self.dropped_handles == 1:
            log.warning("a handle that %s sent was taken by nobody and is closed", self._channel.peer)

    # --- the end ------------------------------------------------------------------------------------------

    def lost(self) -> None:
        """The channel is lost: streams end after the messages they hold."""
        self._drain()
        self._is_lost = True
        for parcel in self._backlog:
            self._drop_handle(parcel)
        feeds, self._feeds = self._feeds, []
        for feed in feeds:
            feed.end()
