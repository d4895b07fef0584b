"""Requests to bind that are answered a moment later, once it is known what another worker makes of its own.

All workers run the same program, at about the same time. What one of them is told tells the others what they
should be told, once it is seen what it does about that:

* a port that nobody chose, bound and not yet listened on, may be a server's, which all are to share, or one
  for a helper, of which each worker needs its own;
* an address in use, said to all at once, would be reported as often as there are workers.

Invariant: nobody waits for longer than `NotYet` says.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

from everycore.core import wire
from everycore.core.listeners import BindNew, ListenKey, ShareExisting
from everycore.kernel import os_error
from everycore.primary.listeners.listener import Listener
from everycore.primary.listeners.passed import PassedSockets
from everycore.system.given import GivenListener, bind_given, is_v6only
from everycore.system.listeners import BoundSocket, DatagramSocket
from everycore.system.sockets import off_the_wire

#: How long it waits whether another worker listens on a port 0, and whether one that was told that its
#: address is in use goes on, in seconds.
PORT_ZERO: Final = 2.0
IN_USE: Final = 10.0
#: How long after the end of a worker the others are told what it was told: they may be to leave for that.
AFTER_AN_END: Final = 0.25
#: What so many workers were told is remembered for the report of their ends.
_MOST_REMEMBERED: Final = 64
#: Addresses of which it is remembered who was told that they are in use.
_MOST_TOLD: Final = 256


class NotYet(Exception):
    """The request is to be repeated by way of `Postponed`, for the last time after so many seconds."""

    def __init__(self, patience: float = 0.0) -> None:
        super().__init__()
        self.patience = patience


class Postponed:
    """The requests of one cluster that wait, and what of its `listeners` is answered for that."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listeners: Iterable[Listener], passed: PassedSockets
    ) -> None:
        self._loop = loop
        self._listeners = listeners
        self._passed = passed
        self._waiting: dict[Callable[[bool], None], asyncio.TimerHandle] = {}
        #: An address in use, and the worker that was told so, as long as it has not gone on.
        self._told: dict[ListenKey, int] = {}
        #: What a worker was told last to be in use.
        self.in_use: dict[int, ListenKey] = {}
        #: Whether another worker than this one listens at an address by itself, where nobody here sees it.
        self.is_elsewhere: Callable[[int, Any], bool] = lambda _worker, _address: False

    def add(self, again: Callable[[bool], None], until: float) -> None:
        """Call `again`, once: with False when something has changed, with True at that time of the loop."""
        self._waiting[again] = self._loop.call_at(until, self._end, again)

    def _end(self, again: Callable[[bool], None]) -> None:
        if self._waiting.pop(again, None) is not None:
            again(True)

    def look(self) -> None:
        """Something has changed: those that wait ask again, once what is under way is finished."""
        waiting, self._waiting = self._waiting, {}
        for again, timer in waiting.items():
            timer.cancel()
            self._loop.call_soon(again, False)

    # --- addresses in use ---------------------------------------------------------------------------------

    def check(self, answer: ShareExisting[Listener] | BindNew, key: ListenKey, worker: int) -> None:
        """Raises NotYet if it depends on another worker what `worker` is to be answered."""
        if not isinstance(answer, BindNew):
            if key.any_port and not answer.listener.has_listened:
                raise NotYet(PORT_ZERO)
        elif self._told.get(key, worker) != worker:  # which may be about to end
            raise NotYet(IN_USE)

    def bound(self, worker: int, key: ListenKey, given: socket.socket, request: wire.Bind) -> BoundSocket:
        """Bind the program's own socket, as `bind_given`; in its place, the one that was passed for `key`."""
        made = GivenListener if key.kind == socket.SOCK_STREAM else DatagramSocket
        taken = self._passed.take(key, made, v6only=is_v6only(given), backlog=128, mode=request.mode)
        if taken is not None:
            given.close()
            return taken
        try:
            place = (request.folder, request.name)
            return self._passed.keep(key, bind_given(given, key.address, mode=request.mode, place=place))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                self.tell(key, worker)
            raise

    def was_told(self, address: Any) -> bool:
        """Whether a worker was told that `address`, as it travels, is in use, and did not get over it."""
        return any(key.address == off_the_wire(address) for key in self.in_use.values())

    def tell(self, key: ListenKey, worker: int) -> None:
        """`worker` is told that `key` is in use."""
        self._told.pop(key, None)
        self._told[key] = worker
        if len(self._told) > _MOST_TOLD:
            del self._told[next(iter(self._told))]
        self.in_use[worker] = key
        for old in tuple(self.in_use)[:-_MOST_REMEMBERED]:
            del self.in_use[old]

    def has_gone_on(self, worker: int) -> None:
        """It listens on another address: others may be told."""
        self.in_use.clear()
        self._forget(worker)

    def has_ended(self, worker: int) -> None:
        """So has its program, maybe for what it was told."""
        self._loop.call_later(AFTER_AN_END, self._forget, worker)

    def _forget(self, worker: int) -> None:
        self._told = {key: told for key, told in self._told.items() if told != worker}
        self.look()

    def close(self) -> None:
        """The cluster ends: nobody waits any more."""
        waiting, self._waiting = self._waiting, {}
        for again, timer in waiting.items():
            timer.cancel()
            again(True)

    # --- addresses of others ------------------------------------------------------------------------------

    def check_connect(self, worker: int, address: Any, *, others: bool = False) -> None:
        """Raises OSError (ECONNREFUSED) if others serve `address` and `worker` does not: alone, nobody would.

        A program asks so whether a port is free, before it listens there. others: raises it if another worker
        serves there, whether `worker` does or not.
        """
        for listener in self._listeners:
            if listener.is_at(address) and (
                set(listener.subscribers) - {worker} if others else not listener.holds(worker)
            ):
                raise os_error(errno.ECONNREFUSED)
        if not others and self.is_elsewhere(worker, address):
            raise os_error(errno.ECONNREFUSED)
