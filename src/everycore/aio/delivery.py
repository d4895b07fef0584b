"""Messages that came, on their way to the program: `messages()` and `on(Message)`.

Who takes a message. Every open `messages()` stream and every callback gets each one; with several takers it
counts as taken, and gives its place in the window back, when the slowest has it. With no taker it waits,
handle and all, for the first. A stream closed with messages left gives them back to the next taker if it
was the only one, so `async for ...: break` and a second loop lose nothing. The *handle* goes to the first
open stream, else to the first callback; the others see None. When the channel is lost, what streams hold is
still theirs; what nobody took stays for a later `messages()`, but its handles are closed, counted in
`dropped_handles`, and warned about once: the other end of a handed over connection must not hang for want
of a reader.

Invariant: a received descriptor has exactly one owner at any time; a body is decoded only when its consumer
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


class Delivery:
    """The receiving half of a `Mailbox`.

    `make_message(value, handle)` makes what streams yield and callbacks get. `on_handle(handle)` is told of
    each handle that is about to be given to the program, with a message or with a request.
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
        #: Handles that came and that nobody took.
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
        #: The only taker, if that is a callback and nothing waits; see `_find_only`.
        self._only: Callable[[Any], object] | None = None
        self._callbacks: list[_Callback] = []
        self._backlog: deque[Parcel] = deque()
        self._is_drain_due = False

    # --- what comes ---------------------------------------------------------------------------------------

    def note(self, body: bytes, fds: tuple[int, ...]) -> None:
        """A note came. Hot: with one callback and nobody else, it is decoded and given to that here."""
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
        """To be called whenever a taker came or went, or the backlog became empty."""
        is_only = len(self._callbacks) == 1 and not (self._feeds or self._backlog)
        self._only = self._callbacks[0].call if is_only else None

    def arrived(self, body: bytes, fds: tuple[int, ...]) -> None:
        """Let a message into the window. Raises ProtocolError; then its descriptors are closed."""
        if len(fds) > 1:
            close_strange(fds)
            raise ProtocolError(f"a message with {len(fds)} descriptors; one is allowed")
        try:
            self._incoming.arrived(len(body), len(fds))
        except ProtocolError:
            close_strange(fds)
            raise

    # --- who takes it -------------------------------------------------------------------------------------

    def messages(self) -> Stream[Parcel, Any]:
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

    def handle_taken(self) -> None:
        """A handle was given to the program, or closed."""
        report = self._incoming.handle_taken()
        if report is not None:
            self._report(report)

    def _report(self, report: Report) -> None:
        if not self._is_lost:
            self._channel.post(wire.Took(*report))
            self._channel.outbox.send_now()  # the peer may wait for nothing else

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
        close_strange(parcel.fds)
        parcel.fds = ()
        self.handle_taken()
        self.dropped_handles += 1
        if self.dropped_handles == 1:
            log.warning("a handle that %s sent was taken by nobody and is closed", self._channel.peer)

    # --- the end ------------------------------------------------------------------------------------------

    def lost(self) -> None:
        """The channel is gone: streams end after what they hold."""
        self._drain()
        self._is_lost = True
        for parcel in self._backlog:
            self._drop_handle(parcel)
        feeds, self._feeds = self._feeds, []
        for feed in feeds:
            feed.end()
