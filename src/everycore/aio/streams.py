"""Async iterators fed by plain calls: what `events()` and `messages()` return.

A stream has two halves. The publisher keeps the `Feed`, and the user holds the `Stream`. The publisher must
not keep the stream itself. A stream that its user drops (`async for ...: break`) is then freed at once by its
reference count and tells the publisher. It neither collects items forever nor holds up the other takers.

Invariant: a stream is subscribed as soon as it exists. It yields every item pushed until `end()`, then stops.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from everycore.aio.waiting import Waiters, release, wait_among

Item = TypeVar("Item")
Out = TypeVar("Out")

#: `take` returns this for an item that the stream leaves out.
SKIP: Final[Any] = object()


class Feed(Generic[Item]):
    """The publisher's half."""

    __slots__ = ("is_ended", "items", "waiters")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.is_ended = False
        #: The waiters for the next `push` or `end`.
        self.waiters: Waiters = deque()

    def push(self, item: Item) -> None:
        """Add `item` and wake the readers."""
        self.items.append(item)
        if self.waiters:
            release(self.waiters)

    def end(self) -> None:
        """End the feed. The stream stops after the items that it holds."""
        self.is_ended = True
        release(self.waiters)


class Stream(Generic[Item, Out]):
    """The user's half: an async iterator, and an async context manager that closes it.

    `take` turns an item into the value to yield, at the moment it is yielded. `on_close` is called once, with
    the feed, when nobody will read it any more.
    """

    def __init__(
        self, feed: Feed[Item], take: Callable[[Item], Out], on_close: Callable[[Feed[Item]], None]
    ) -> None:
        self._feed = feed
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._on_close: Callable[[Feed[Item]], None] | None = on_close

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Out:
        feed = self._feed
        while True:
            if feed.items:
                out = self._take(feed.items.popleft())
                if out is not SKIP:
                    return out
            elif feed.is_ended:
                await self.aclose()
                raise StopAsyncIteration
            else:
                await wait_among(feed.waiters)

    async def aclose(self) -> None:
        """Close the stream. A pending `anext()` raises StopAsyncIteration."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            self._feed.end()
            on_close(self._feed)
            self._feed.items.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        on_close = getattr(self, "_on_close", None)
        if on_close is None:
            return
        if threading.get_ident() == self._thread:
            on_close(self._feed)
        elif not self._loop.is_closed():  # the garbage collector may run in any thread
            self._loop.call_soon_threadsafe(on_close, self._feed)
