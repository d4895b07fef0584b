"""Requests to bind that are answered a little later, when it is known how another worker's request turns out.

All workers run the same program, at about the same time. So the reaction of one worker to its answer tells
what to answer the others:

* A port that the kernel chose, bound and not yet listened on, may be a server's, which all workers are to
  share, or a helper's, of which each worker needs its own.
* An address in use, reported to all workers at once, would be in the log as often as there are workers.

Invariant: no request waits longer than `NotYet` says.
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

#: How long to wait until another worker listens on its port 0, and until a worker that was told that its
#: address is in use goes on or ends. In seconds.
PORT_ZERO: Final = 2.0
IN_USE: Final = 10.0
#: How long after the end of a worker the others get the same answer, in seconds: that end may make them
#: leave.
AFTER_AN_END: Final = 0.25
#: The number of workers whose answer is remembered for the report of their ends.
_MOST_REMEMBERED: Final = 64
#: The number of addresses in use for which the worker that was told is remembered.
_MOST_TOLD: Final = 256


class NotYet(Exception):
    """The request is to be repeated through `Postponed`, for the last time after `patience` seconds."""

    def __init__(self, patience: float = 0.0) -> None:
        super().__init__()
        self.patience = patience


class Postponed:
    """The requests of one cluster that wait, and what is known of its `listeners` to answer them."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listeners: Iterable[Listener], passed: PassedSockets
    ) -> None:
        self._loop = loop
        self._listeners = listeners
        self._passed = passed
        self._waiting: dict[Callable[[bool], None], asyncio.TimerHandle] = {}
        #: An address in use -> the worker that was told so, until it goes on.
        self._told: dict[ListenKey, int] = {}
        #: Worker -> the latest address that it was told is in use.
        self.in_use: dict[int, ListenKey] = {}
        #: Whether a worker other than this one has a listener of its own at an address, out of the primary's
        #: control.
        self.is_elsewhere: Callable[[int, Any], bool] = lambda _worker, _address: False

    def add(self, again: Callable[[bool], None], until: float) -> None:
        """Call `again` once: with False when something has changed, with True at loop time `until`."""
        self._waiting[again] = self._loop.call_at(until, self._end, again)

    def _end(self, again: Callable[[bool], None]) -> None:
        if self._waiting.pop(again, None) is not None:
            again(True)

    def look(self) -> None:
        """Let the waiting requests be tried again, once the current call is finished."""
        waiting, self._waiting = self._waiting, {}
        for again, timer in waiting.items():
            timer.cancel()
            self._loop.call_soon(again, False)

    # --- addresses in use ---------------------------------------------------------------------------------

    def check(self, answer: ShareExisting[Listener] | BindNew, key: ListenKey, worker: int) -> None:
        """Raise NotYet if the answer to `worker` depends on another worker."""
        if not isinstance(answer, BindNew):
            if key.any_port and not answer.listener.has_listened:
                raise NotYet(PORT_ZERO)
        elif self._told.get(key, worker) != worker:  # the other worker may be about to end
            raise NotYet(IN_USE)

    def bound(self, worker: int, key: ListenKey, given: socket.socket, request: wire.Bind) -> BoundSocket:
        """Bind the program's own socket, as `bind_given` does, or take the one that was passed for `key`."""
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
        """Whether a worker was told that `address`, in the form of the wire, is in use, and did not go on."""
        return any(key.address == off_the_wire(address) for key in self.in_use.values())

    def tell(self, key: ListenKey, worker: int) -> None:
        """Note that `worker` is told that `key` is in use."""
        self._told.pop(key, None)
        self._told[key] = worker
        if len(self._told) > _MOST_TOLD:
            del self._told[next(iter(self._told))]
        self.in_use[worker] = key
        for old in tuple(self.in_use)[:-_MOST_REMEMBERED]:
            del self.in_use[old]

    def has_gone_on(self, worker: int) -> None:
        """Note that the worker listens on another address: the others may be told."""
        self.in_use.clear()
        self._forget(worker)

    def has_ended(self, worker: int) -> None:
        """Note that the worker has ended, perhaps because of its answer."""
        self._loop.call_later(AFTER_AN_END, self._forget, worker)

    def _forget(self, worker: int) -> None:
        self._told = {key: told for key, told in self._told.items() if told != worker}
        self.look()

    def close(self) -> None:
        """End all waits: the cluster ends."""
        waiting, self._waiting = self._waiting, {}
        for again, timer in waiting.items():
            timer.cancel()
            again(True)

    # --- addresses of others ------------------------------------------------------------------------------

    def check_connect(self, worker: int, address: Any, *, others: bool = False) -> None:
        """Raise OSError (ECONNREFUSED) if other workers serve `address` and `worker` does not.

        A program connects to find out whether a port is free, before it listens there. Without a cluster no
        process would answer. others: raise if another worker serves there, even if `worker` does too.
        """
        for listener in self._listeners:
            if listener.is_at(address) and (
                set(listener.subscribers) - {worker} if others else not listener.holds(worker)
            ):
                raise os_error(errno.ECONNREFUSED)
        if not others and self.is_elsewhere(worker, address):
            raise os_error(errno.ECONNREFUSED)
