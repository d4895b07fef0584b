"""A shared listener from which uvloop accepts by itself, in turn with the other workers.

Accepting a connection costs less in C than in Python. Python is involved when the factory is asked for the
protocol. HOT: `_protocol` runs for every connection. Invariant: once registered, libuv and the reader of
`SharedReader` are never both in the queue. The reader is in it if something must be checked before a
connection is accepted:

* The server has a limit.
* This worker holds too many connections, so its turn goes on to another worker.
* Descriptors are short. libuv closes the waiting connections if it finds none free.
* The listener is readable, but libuv does not accept: it reports no error, and tries again in each turn.

The end of a connection is not reported, and the connection may have another protocol by then (`set_protocol`,
`start_tls`). uvloop counts in C; this module compares the count before the loop waits, and with each
connection. Otherwise the program would have to get other protocols than its own.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from everycore.core.lanes import COSTLY
from everycore.foreign.uvloop_internals import NativeServer
from everycore.system.board import Next
from everycore.system.wakeups import is_readable
from everycore.worker.connections.counted import end_transport
from everycore.worker.connections.reception import HEADROOM, descriptor_limit, lowest_free, tell_failed
from everycore.worker.connections.shared_reader import MOST_EXCESS, SharedReader

if TYPE_CHECKING:
    from everycore.worker.connections.turns import Turns

#: The free descriptors are counted again before they can be used up, if each connection takes at most this
#: many.
MOST_EACH: Final = 32
#: After this many turns without a connection, the listener is checked.
QUIET: Final = 64


class NativeReader(SharedReader):
    """As `SharedReader`, but uvloop accepts. `factory` is the server's; `turns` are the loop's."""

    __slots__ = (
        "_context", "_counter", "_factory", "_has_headroom", "_is_ended", "_is_in_trouble", "_native",
        "_quiet", "_said", "_told", "_turns_of", "server",
    )  # fmt: skip

    def __init__(self, *args: Any, factory: Callable[[], Any], turns: Turns, **parts: Any) -> None:
        super().__init__(*args, **parts)
        self.server = self._limit
        self._factory = factory
        self._turns_of = turns
        self._pace = turns.pace
        #: The context of the caller of `create_server`, in which uvloop runs the protocols.
        self._context = contextvars.copy_context()
        self._native: NativeServer | None = None
        self._counter: Any = None
        #: How many connections are open: according to the board, and according to the limit and the ledger.
        self._said = self._told = 0
        self._has_headroom = self._is_in_trouble = self._is_ended = False
        #: Turns since libuv last accepted a connection.
        self._quiet = 0

    def _enter(self) -> None:
        if self._sock.fileno() >= 0:
            try:
                self._native = self._context.run(
                    NativeServer, self._loop, self._sock.fileno(), int(self._sock.family), self._protocol
                )
            except OSError:
                pass  # for instance, no descriptor is free: connections are accepted in Python
            else:
                self._counter = self._native.counter
                self._sock.copies.append(self._native.fileno)
                self._look_around()
                self._registrations.accept_by_loop(self._native.fileno, self._is_for_libuv)
                self._connections.add(self)
                self._turns_of.watch(self._look, self._close_native)
        super()._enter()

    def _is_for_libuv(self) -> bool:
        is_well = self._has_headroom and not self._is_in_trouble
        return is_well and not self._is_over and not self._limit.is_set

    def _protocol(self) -> Any:
        """The protocol of the connection that libuv has just accepted. Raises nothing: see `NativeServer`."""
        try:
            protocol = self._factory()
            if not hasattr(protocol, "connection_made"):
                raise TypeError(f"the protocol factory returned {protocol!r}, which is not a protocol")
            count = self._counter.value + 1  # uvloop has not counted it yet
            pace = self._pace
            where = self._board.accepted(count - self._said, MOST_EXCESS, pace.slack)
            self._said = count
            self._quiet = 0
            pace.left -= 1
            if pace.left <= 0:
                self._look_around()
            if where is not Next.MINE_TOO or self._board.cost > COSTLY:
                self._leave(where)
        except (SystemExit, KeyboardInterrupt) as exc:
            self._loop.call_soon(_raise, exc)
            return _Unserved()
        except BaseException as exc:
            tell_failed(self._loop, exc)
            return _Unserved()
        return protocol

    def _leave(self, where: Next) -> None:
        """Leave the head of the queue."""
        listener = self._registrations.listener
        if listener is None or not listener.is_armed:
            return  # the worker left the queue in this very turn
        if self._board.cost > COSTLY:
            listener.disarm()
            self._loop.call_soon(self._after, self._turns - 1)
        elif where is not Next.ONLY_MINE:
            self._leave_or_queue(where)

    def _look_around(self) -> None:
        """Check what changes slowly, after so many connections that it can't have changed much."""
        self._turns_of.step(max(self._look_at_descriptors() // MOST_EACH, 1))

    def _look_at_descriptors(self) -> int:
        """Return how many descriptors are free. While they are few, connections are accepted in Python."""
        lowest = lowest_free(self._sock.fileno())  # None also if the socket is closed
        free = 0 if lowest is None else min(self._descriptor_limit, descriptor_limit()) - lowest
        had_headroom, self._has_headroom = self._has_headroom, free >= HEADROOM
        listener = self._registrations.listener
        if had_headroom and not self._has_headroom and listener is not None and listener.is_armed:
            listener.rearm()
        return free

    def _next(self) -> Next:
        self._pace.left -= 1
        if self._pace.left <= 0:
            self._look_around()
        return self._board.next(MOST_EXCESS, self._pace.slack)

    def _on_readable(self) -> None:
        super()._on_readable()
        listener = self._registrations.listener
        if listener is not None and listener.is_armed:
            self._is_in_trouble = False
            if self._is_for_libuv():
                listener.rearm()  # connections need not be checked in Python any more

    def _stay_out(self, *args: Any) -> None:
        super()._stay_out(*args)
        self._turns_of.resume()

    def _disarm(self) -> None:
        super()._disarm()
        self._turns_of.resume()

    def _end(self) -> None:
        super()._end()
        if self._native is not None:
            self._close_native()
            self._turns_of.resume()
            self._look()

    def _close_native(self) -> None:
        if self._native is not None and not self._is_ended:
            self._is_ended = True
            self._sock.copies.remove(self._native.fileno)
            self._native.close()

    # --- as a group of the ledger -------------------------------------------------------------------------

    def count(self) -> int:
        """As `Group.count`."""
        return int(self._counter.value)

    def connections(self) -> list[Any]:
        """As `Group.connections`."""
        assert self._native is not None
        return [_Native(transport) for transport in self._native.transports()]

    def _look(self) -> None:
        """Report how many connections are open: the loop is about to wait. HOT: called in every turn."""
        count = self._counter.value
        if not self._is_ended:
            # The program may have opened files in this turn, for no connection.
            self._look_at_descriptors()
        self._quiet += 1
        if self._quiet >= QUIET:
            self._look_for_trouble()
        if count == self._said == self._told:
            if self._is_ended and not count:
                self._turns_of.unwatch(self._look, self._close_native)
                self._connections.remove(self)
            return
        if count != self._said:
            self._board.closed(self._said - count)
        change, self._said, self._told = count - self._told, count, count
        self._connections.recounted(self, change)

    def _look_for_trouble(self) -> None:
        self._quiet = 0
        listener = self._registrations.listener
        if listener is not None and listener.is_armed and is_readable(self._sock.fileno()):
            self._is_in_trouble = True  # until a connection is accepted in Python, which shows the error
            listener.rearm()


class _Native:
    """One connection of a `NativeServer`, which can be ended."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def end(self, *, abort: bool) -> None:
        """As `Connection.end`."""
        end_transport(lambda: self._transport, abort=abort)


class _Unserved(asyncio.Protocol):
    """The protocol of a connection for which the program has none."""

    def connection_made(self, transport: Any) -> None:
        """Close the connection."""
        transport.abort()


def _raise(exc: BaseException) -> None:
    raise exc
