"""A worker's registrations in its event loop's epoll: for a shared listener, and for its baton.

In an epoll it is an `ExclusiveRegistration`; a loop that waits in poll(2) or select(2) has a
`PlainRegistration` instead. Invariant: the loop has readers from `enter` to `close`; from `register` to
`close` there is a registration for each of them.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

from everycore.foreign import asyncio_internals
from everycore.system.wakeups import ExclusiveRegistration


class PlainRegistration:
    """`ExclusiveRegistration` for a loop that waits in poll(2) or select(2): no queue, all are woken."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._callback = callback
        self.is_armed = True

    def disarm(self) -> None:
        """Be not woken for a while."""
        self.is_armed = False
        self._loop.remove_reader(self._fd)

    def rearm(self) -> None:
        """Be woken again."""
        if not self.is_armed:
            self.is_armed = True
            self._loop.add_reader(self._fd, self._callback)

    def close(self) -> None:
        """There is nothing to close: the loop has the reader."""


class Registrations:
    """The registrations of one shared listener in one loop. `baton_fd`: -1 if there is no baton.

    `listener` and `baton` are the registrations, None while there is none. HOT: `listener` and `are_disarmed`
    are used for every connection, directly.
    """

    __slots__ = (
        "_baton_fd",
        "_fd",
        "_loop",
        "_on_baton",
        "_on_readable",
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
        # By number: uvloop would else keep the socket from being closed.
        self._fd = fd
        self._baton_fd = baton_fd
        self._on_readable = on_readable
        self._on_baton = on_baton
        self.listener: ExclusiveRegistration | PlainRegistration | None = None
        self.baton: ExclusiveRegistration | PlainRegistration | None = None
        #: Whether the baton does not wake the worker either.
        self.are_disarmed = False

    def enter(self) -> None:
        """Have the loop call back; nothing is registered yet."""
        self._loop.add_reader(self._fd, self._on_readable)
        if self._baton_fd >= 0:
            self._loop.add_reader(self._baton_fd, self._on_baton)

    def register(self) -> None:
        """Register both.

        Raises FileNotFoundError as long as the loop has not registered what it was to read.
        """
        listener = self._register(self._fd, self._on_readable)
        baton = self._register(self._baton_fd, self._on_baton) if self._baton_fd >= 0 else None
        self.listener, self.baton = listener, baton

    def _register(self, fd: int, callback: Callable[[], None]) -> ExclusiveRegistration | PlainRegistration:
        epoll_fd = _epoll_of(self._loop)
        return (
            PlainRegistration(self._loop, fd, callback)
            if epoll_fd is None
            else ExclusiveRegistration(epoll_fd, fd)
        )

    def disarm(self) -> None:
        """Be woken by neither until `rearm`."""
        self.are_disarmed = self.baton is not None
        for registration in (self.listener, self.baton):
            if registration is not None:
                registration.disarm()

    def rearm(self) -> None:
        """Go to the end of both queues, or come back to them."""
        self.are_disarmed = False
        for registration in (self.baton, self.listener):
            if registration is not None:
                registration.rearm()

    def close(self) -> None:
        """Give them up: the listener is about to be closed."""
        if self._baton_fd >= 0:
            self._loop.remove_reader(self._baton_fd)
        self._loop.remove_reader(self._fd)
        for registration in (self.listener, self.baton):
            if registration is not None:
                registration.close()
        self.listener = self.baton = None
        self.are_disarmed = False


def selector_of(loop: Any) -> selectors.BaseSelector | None:
    """What a loop of asyncio waits in: one of ours has it at hand; None if that can't be told."""
    return getattr(loop, "stamped_selector", None) or asyncio_internals.selector_of(loop)


def _epoll_of(loop: Any) -> int | None:
    """The epoll that the loop waits on, asyncio's or libuv's; None: it waits in something else."""
    if isinstance(loop, asyncio.SelectorEventLoop):
        selector = selector_of(loop)
        return int(selector.fileno()) if isinstance(selector, selectors.EpollSelector) else None
    from everycore.foreign import uvloop_internals  # the only other loops that come here

    return uvloop_internals.epoll_of(loop)
