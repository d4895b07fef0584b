"""A worker's registrations in its event loop's epoll: for a shared listener, and for its baton.

A loop that waits in epoll has an `ExclusiveRegistration`; a loop that waits in poll(2) or select(2) has a
`PlainRegistration` instead. Invariant: the loop has readers from `enter` to `close`, and each reader has a
registration from `register` to `close`.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any, TypeAlias

from everycore.foreign import asyncio_internals
from everycore.system.wakeups import ExclusiveRegistration


class PlainRegistration:
    """`ExclusiveRegistration` for a loop that waits in poll(2) or select(2).

    There is no queue of waiters: the kernel wakes all of them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._callback = callback
        self.is_armed = True

    def disarm(self) -> None:
        """Stop receiving wake-ups until `rearm`."""
        self.is_armed = False
        self._loop.remove_reader(self._fd)

    def rearm(self) -> None:
        """Receive wake-ups again."""
        if not self.is_armed:
            self.is_armed = True
            self._loop.add_reader(self._fd, self._callback)

    def close(self) -> None:
        """Do nothing: the loop removes the reader."""


class TwofoldRegistration:
    """Two registrations for one listener, of which one is armed at a time.

    own: the registration of the loop's own server, which accepts by itself. reader: that of `on_readable`.
    takes_own: returns whether `own` is to be armed.
    """

    __slots__ = ("_own", "_reader", "_takes_own", "is_armed")

    def __init__(
        self, own: ExclusiveRegistration, reader: ExclusiveRegistration, takes_own: Callable[[], bool]
    ) -> None:
        self._own = own
        self._reader = reader
        self._takes_own = takes_own
        self.is_armed = True
        reader.disarm()
        self.rearm()

    def disarm(self) -> None:
        """As `ExclusiveRegistration.disarm`."""
        self.is_armed = False
        self._own.disarm()
        self._reader.disarm()

    def rearm(self) -> None:
        """As `ExclusiveRegistration.rearm`. HOT: called for each connection."""
        self.is_armed = True
        if self._takes_own():
            if self._reader.is_armed:
                self._reader.disarm()
            self._own.rearm()
        else:
            self._own.disarm()
            self._reader.rearm()

    def close(self) -> None:
        """As `ExclusiveRegistration.close`."""
        self._own.close()
        self._reader.close()


Registration: TypeAlias = ExclusiveRegistration | PlainRegistration | TwofoldRegistration


class Registrations:
    """The registrations of one shared listener in one loop. `baton_fd`: -1 if there is no baton.

    `listener` and `baton` are the registrations, or None. HOT: `listener` and `are_disarmed` are read
    directly, for every connection.
    """

    __slots__ = (
        "_baton_fd",
        "_fd",
        "_loop",
        "_on_baton",
        "_on_readable",
        "_own",
        "are_disarmed",
        "baton",
        "listener",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        baton_fd: int,
        *,
        on_readable: Callable[[], None],
        on_baton: Callable[[], None],
    ) -> None:
        self._loop = loop
        # Use the descriptor's number: given the socket, uvloop would keep it from being closed.
        self._fd = fd
        self._baton_fd = baton_fd
        self._on_readable = on_readable
        self._on_baton = on_baton
        self._own: tuple[int, Callable[[], bool]] | None = None
        self.listener: Registration | None = None
        self.baton: Registration | None = None
        #: Whether neither the listener nor the baton wakes the worker.
        self.are_disarmed = False

    def enter(self) -> None:
        """Add the loop's readers. Nothing is registered yet."""
        self._loop.add_reader(self._fd, self._on_readable)
        if self._baton_fd >= 0:
            self._loop.add_reader(self._baton_fd, self._on_baton)

    def accept_by_loop(self, own_fd: int, takes_own: Callable[[], bool]) -> None:
        """Let the loop itself accept, through `own_fd`, while `takes_own` says so. Call before `register`.

        own_fd: a descriptor of the listener that the loop polls in its epoll, for a server of its own.
        """
        self._own = own_fd, takes_own

    def register(self) -> None:
        """Register the listener and the baton.

        Raises FileNotFoundError as long as the loop has not put its readers into the epoll.
        """
        listener = self._register(self._fd, self._on_readable)
        if self._own is not None and isinstance(listener, ExclusiveRegistration):
            own_fd, takes_own = self._own
            own = ExclusiveRegistration(_epoll_of(self._loop) or -1, own_fd)
            listener = TwofoldRegistration(own, listener, takes_own)
        baton = self._register(self._baton_fd, self._on_baton) if self._baton_fd >= 0 else None
        self.listener, self.baton = listener, baton

    def _register(self, fd: int, callback: Callable[[], None]) -> Registration:
        epoll_fd = _epoll_of(self._loop)
        return (
            PlainRegistration(self._loop, fd, callback)
            if epoll_fd is None
            else ExclusiveRegistration(epoll_fd, fd)
        )

    def disarm(self) -> None:
        """Let neither the listener nor the baton wake this worker until `rearm`."""
        self.are_disarmed = self.baton is not None
        for registration in (self.listener, self.baton):
            if registration is not None:
                registration.disarm()

    def rearm(self) -> None:
        """Move this worker to the end of both queues, or bring it back to them."""
        self.are_disarmed = False
        for registration in (self.baton, self.listener):
            if registration is not None:
                registration.rearm()

    def close(self) -> None:
        """Give the registrations up. The listener is about to be closed."""
        if self._baton_fd >= 0:
            self._loop.remove_reader(self._baton_fd)
        self._loop.remove_reader(self._fd)
        for registration in (self.listener, self.baton):
            if registration is not None:
                registration.close()
        self.listener = self.baton = None
        self.are_disarmed = False


def selector_of(loop: Any) -> selectors.BaseSelector | None:
    """The selector in which an asyncio loop waits, or None if that can't be told.

    A loop of everycore has it as an attribute.
    """
    return getattr(loop, "stamped_selector", None) or asyncio_internals.selector_of(loop)


def _epoll_of(loop: Any) -> int | None:
    """The epoll in which the loop waits, asyncio's or libuv's; None if it waits in something else."""
    if isinstance(loop, asyncio.SelectorEventLoop):
        selector = selector_of(loop)
        return int(selector.fileno()) if isinstance(selector, selectors.EpollSelector) else None
    from everycore.foreign import uvloop_internals  # only uvloop's loops get this far

    return uvloop_internals.epoll_of(loop)
