"""Delivers events to subscribers: to callbacks at once, to async iterators through their queues.

Invariant: `emit` never waits and never raises. Life-cycle events are never dropped, so an iterator's queue
has no bound: there are only a few events per worker. Messages go another way, with a bound (`aio.mailbox`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar, overload

from everycore.aio.streams import Feed, Stream
from everycore.aio.subscriptions import Subscription, call_back, check_plain, once
from everycore.model import Event

E = TypeVar("E", bound=Event)
#: What `events()` returns: an asynchronous iterator of events, `EventStream[Exited]` for `events(Exited)`.
#: `await aclose()`, or the end of its `async with` block, ends it.
EventStream: TypeAlias = Stream[Event, E]


class _Listener:
    """The subscription made by one call of `on`."""

    __slots__ = ("callback", "event_type", "is_active")

    def __init__(self, event_type: type[Event], callback: Callable[[Any], object]) -> None:
        self.event_type = event_type
        self.callback = callback
        self.is_active = True


class Emitter:
    """Callbacks and iterators by event type. A base class (`Event`, `WorkerEvent`) covers its subclasses."""

    def __init__(self) -> None:
        self._listeners: list[_Listener] = []
        self._feeds: list[tuple[Feed[Event], tuple[type[Event], ...]]] = []
        self._is_closed = False

    def on(self, event_type: type[Event], callback: Callable[[Any], object]) -> Subscription:
        """Call `callback` with each event of this type. Callbacks run in the order of subscription."""
        _check_type(event_type)
        check_plain(callback)
        listener = _Listener(event_type, callback)
        if not self._is_closed:
            self._listeners.append(listener)
        return Subscription(lambda: self._cancel(listener))

    def once(self, event_type: type[Event], callback: Callable[[Any], object]) -> Subscription:
        """Call `callback` with the next event of this type only."""
        return once(partial(self.on, event_type), callback)

    @overload
    def events(self) -> EventStream[Event]: ...
    @overload
    def events(self, *types: type[E]) -> EventStream[E]: ...
    def events(self, *types: type[Event]) -> EventStream[Any]:
        """Return an async iterator over later events of `types`, or of all types. Messages are not events."""
        for event_type in types:
            _check_type(event_type)
        feed: Feed[Event] = Feed()
        if self._is_closed:
            feed.end()
        else:
            self._feeds.append((feed, types or (Event,)))
        return Stream(feed, _as_it_is, self._forget)

    def emit(self, event: Event) -> None:
        """Deliver `event`, first to the iterators' queues, then to the callbacks.

        A callback that another one subscribes or cancels during this call does not get it.
        """
        for feed, types in self._feeds:
            if isinstance(event, types):
                feed.push(event)
        for listener in tuple(self._listeners):
            if listener.is_active and isinstance(event, listener.event_type):
                call_back(listener.callback, event)

    def close(self) -> None:
        """End all subscriptions. Iterators end after what is queued; callbacks are forgotten."""
        self._is_closed = True
        feeds, self._feeds = self._feeds, []
        for feed, _ in feeds:
            feed.end()
        for listener in tuple(self._listeners):
            self._cancel(listener)

    def _cancel(self, listener: _Listener) -> None:
        listener.is_active = False
        if listener in self._listeners:
            self._listeners.remove(listener)

    def _forget(self, feed: Feed[Event]) -> None:
        self._feeds = [entry for entry in self._feeds if entry[0] is not feed]


def _check_type(event_type: Any) -> None:
    if not (isinstance(event_type, type) and issubclass(event_type, Event)):
        raise TypeError(f"{event_type!r} is not an event class of everycore")


def _as_it_is(event: Any) -> Any:
    return event
