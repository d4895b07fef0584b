"""A shared listener in a worker's event loop: accept one connection, go to the end of the queue.

This is the worker's half of the policy `shared`. HOT: `_on_readable` runs for every connection. Invariant:
the listener is registered in this loop's epoll with EPOLLEXCLUSIVE, unless the worker has left the queue
deliberately. It does so while other workers take the waiting connections. It also does so when it is short of
descriptors or at its server's limit, until it can accept again; then the baton does not wake it either.

asyncio's own accept loop takes up to `backlog` connections a wake-up, so the first worker to wake takes a
whole burst. Here a worker takes one connection and goes to the end of the queue of waiting workers
(`system.wakeups`). A worker that then holds more connections than the others on average stays out of the
queue for a moment, longer where processors are short (`core.patience`), and passes its next turn on with the
baton. (Rejected: a worker steps back when woken and passes nothing on. That swallows the wake-up. A threshold
of the mean itself gave 1.28 times the mean in bursts; this one gives 1.02.)
"""

from __future__ import annotations

import asyncio
import logging
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from everycore.core import wire
from everycore.core.lanes import COSTLY
from everycore.core.pace import Pace
from everycore.core.patience import Patience
from everycore.foreign.socket_internals import accept
from everycore.system import belt
from everycore.system.accepting import PAUSE, Trouble, trouble_of
from everycore.system.board import Next
from everycore.system.wakeups import is_readable, pass_baton, take_baton
from everycore.worker.connections.reception import Giver, Shortage, descriptor_limit, free_descriptors
from everycore.worker.connections.registrations import Registrations, selector_of
from everycore.worker.connections.resting import RestWatch

if TYPE_CHECKING:
    from everycore.system.board import WorkerBoard
    from everycore.worker.connections.ledger import Ledger
    from everycore.worker.connections.limits import ConnectionLimit
    from everycore.worker.listening.clustersocket import SharedSocket
    from everycore.worker.listening.readiness import Readiness

log = logging.getLogger("everycore.worker")

#: Connections accepted in one turn of the loop while all other workers are at work.
MOST_AT_ONCE: Final = 4
#: A worker with more than this many connections above the mean stays out of the queue for a while.
MOST_EXCESS: Final = 1.0
#: How long such a worker stays out of the queue before it looks again, in seconds.
BACKOFF: Final = 0.002


class StampedSelector(selectors.EpollSelector):
    """asyncio's selector, which notes on the board whether this worker waits for events.

    From that note the other workers see whether it is free or blocked.
    """

    def __init__(self, board: WorkerBoard) -> None:
        super().__init__()
        self._board = board

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As `EpollSelector.select`."""
        self._board.idle(True)
        try:
            return super().select(timeout)
        finally:
            self._board.idle(False)


class Taker:
    """Accepts one connection a call and gives it to the program. `on_trouble` gets the error of accept(2)."""

    __slots__ = ("_giver", "_limit", "_on_trouble", "_sock")

    def __init__(
        self, sock: SharedSocket, giver: Giver, limit: ConnectionLimit, on_trouble: Callable[[OSError], None]
    ) -> None:
        self._sock = sock
        self._giver = giver
        self._limit = limit
        self._on_trouble = on_trouble

    def take(self) -> int:
        """Take one connection. Returns its descriptor, or -1 if there was none, or no room for it."""
        if self._limit.is_full:
            return -1
        try:
            fd, peer = accept(self._sock)
        except (BlockingIOError, InterruptedError):
            return -1
        except OSError as exc:
            self._on_trouble(exc)
            return -1
        if not self._limit.drop(fd, peer):
            self._giver.give(fd, peer)
            self._giver.advance()
        return int(fd)


def wake_another(sock: SharedSocket) -> None:
    """Pass on a wake-up that came in the very turn in which this worker left the queue.

    To take the connection would bring the worker back to the end of the queue, though it is to take none.
    """
    if is_readable(sock.fileno()):
        pass_baton(sock.baton)


class SharedReader:
    """Takes connections from a shared listener, in turn with the other workers."""

    __slots__ = (
        "_backoff", "_board", "_connections", "_descriptor_limit", "_is_over", "_limit", "_loop", "_now",
        "_pace", "_patience", "_readiness", "_registrations", "_rest", "_shortage", "_sock", "_take",
        "_turns",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: SharedSocket,
        giver: Giver,
        limit: ConnectionLimit,
        *,
        board: WorkerBoard,
        connections: Ledger,
        readiness: Readiness,
    ) -> None:
        self._loop = loop
        self._now = loop.time
        self._sock = sock
        self._board = board
        self._connections = connections
        self._readiness = readiness
        self._descriptor_limit = descriptor_limit()
        self._shortage = Shortage()
        self._turns = giver.turns
        self._take = Taker(sock, giver, limit, self._on_trouble).take
        self._limit = limit
        self._registrations = Registrations(
            loop, sock.fileno(), sock.baton, on_readable=self._on_readable, on_baton=self._on_baton
        )
        self._rest: RestWatch | None = None
        self._backoff: asyncio.TimerHandle | None = None
        self._patience = Patience()
        self._pace = Pace()
        #: Whether this worker held too many connections when it last took one.
        self._is_over = False

    def begin(self) -> None:
        """Take part once this worker is ready: until then the primary can't keep the listener from it."""
        self._readiness.when_ready(self._loop, self._enter)
        self._sock.tell_primary(wire.Serve(belt.MOST_BATCH, shares=True))

    def _enter(self) -> None:
        if self._sock.fileno() < 0:  # the program closed it before the worker was ready
            return
        self._registrations.enter()
        self._board.serving(True)
        if not isinstance(selector_of(self._loop), StampedSelector):
            # Nothing notes when this loop waits. If it counted as busy, it would never be left a connection.
            self._board.idle(True)
        self._sock.when_closed(self._end)
        self._rest = RestWatch(self._loop, self._sock, self._on_rest)
        self._limit.watch(on_full=self._disarm, on_room=self._on_room)
        self._register()

    def _register(self) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            self._registrations.register()
        except FileNotFoundError:  # libuv registers new readers only when it next waits
            self._loop.call_soon(self._register)
        else:
            if self._limit.is_full or self._is_resting:  # either may have come before there was a queue
                self._disarm()

    def _end(self) -> None:
        """The socket is about to be closed."""
        self._end_backoff()
        if self._rest is not None:
            self._rest.close()
        self._board.serving(False)
        self._registrations.close()

    def _on_readable(self) -> None:
        if self._registrations.are_disarmed:
            wake_another(self._sock)
            return
        if self._is_over and self._hands_on():
            return
        fd = self._take()
        if fd < 0 or self._registrations.listener is None:
            return
        if fd >= self._descriptor_limit:
            self._shortage.tell(self._now())
            self._run_short()
        elif self._limit.is_full:  # this worker has left the queue already
            return
        elif self._board.cost > COSTLY:
            # The handler may take long, and a connection accepted before it has begun would wait behind it.
            self._registrations.listener.disarm()
            self._loop.call_soon(self._after, self._turns - 1)
        elif (where := self._next()) is Next.ONLY_MINE or (where is Next.MINE_TOO and self._pace.slack):
            # All the other workers are busy, so none of them could take the next connection sooner, and the
            # queue is empty; or cheap connections come fast, and nobody waits for long. Taking a few more at
            # once saves turns of the loop: measured with two workers, it gives 1.10 times the throughput of a
            # plain shared listener; taking one more gives 1.04.
            for _ in range(MOST_AT_ONCE - 1):
                if self._take() < 0 or self._registrations.listener is None:  # none waits, or it was closed
                    break
        else:
            self._leave_or_queue(where)

    def _after(self, turns: int) -> None:
        """Go back to the queue in `turns` turns, when the program has been given the last connection."""
        if turns:
            self._loop.call_soon(self._after, turns - 1)
            return
        registration = self._registrations.listener
        if registration is None or self._backoff is not None:
            return  # the listener is closed, or the worker has left the queue for another reason
        if registration.is_armed or self._registrations.are_disarmed:
            return  # the worker is back in the queue, or was told to take no connections
        if not self._limit.is_full:
            self._leave_or_queue(self._next())

    def _next(self) -> Next:
        pace, board = self._pace, self._board
        pace.left -= 1
        if pace.left <= 0:
            pace.follow(self._now(), board.held, board.cost)
        return board.next(MOST_EXCESS, pace.slack)

    def _leave_or_queue(self, where: Next) -> None:
        """Go to the end of the queue, leave it, or stay at its head, which saves two system calls."""
        listener = self._registrations.listener
        assert listener is not None
        self._is_over = where is Next.NOT_MINE
        if self._is_over:
            self._leave_to_others(waits=is_readable(self._sock.fileno()))
        elif where is Next.ANOTHER or not listener.is_armed:
            listener.rearm()

    def _hands_on(self) -> bool:
        """Pass this worker's turn on if it still holds too many connections. Returns whether that is so."""
        self._is_over = self._board.should_yield(MOST_EXCESS)
        if not self._is_over or self._registrations.listener is None or self._registrations.baton is None:
            return False
        if is_readable(self._sock.fileno()):
            self._leave_to_others(waits=True)
            self._registrations.baton.rearm()
            pass_baton(self._sock.baton)
        return True

    def _leave_to_others(self, *, waits: bool) -> None:
        """Leave the next connections to other workers. `waits`: one is waiting in the accept queue."""
        self._patience.begin(self._now(), waits=waits)
        self._stay_out_on()

    def _stay_out_on(self) -> None:
        self._stay_out(BACKOFF, self._look_again)
        self._connections.when_fewer(self._reconsider)

    def _look_again(self) -> None:
        """Come back, unless other workers are about to take the waiting connection: leave it to them."""
        self._backoff = None
        waits = is_readable(self._sock.fileno())
        if self._patience.lasts(self._now(), waits=waits) and self._board.should_yield(MOST_EXCESS):
            self._stay_out_on()
        else:
            self._is_over = self._is_over and not waits  # this worker takes what no other worker takes
            self._rearm()

    def _on_trouble(self, exc: OSError) -> None:
        trouble = trouble_of(exc)
        if trouble is Trouble.PAUSE:
            log.warning("accept: %s; connections wait, or go to another worker", exc.strerror)
            self._run_short()
        elif trouble is Trouble.LISTENER:  # the socket does not listen: the primary refuses for a while
            self._stay_out(PAUSE)

    def _stay_out(self, seconds: float, then: Callable[[], None] | None = None) -> None:
        if self._registrations.listener is not None and self._backoff is None:
            self._registrations.listener.disarm()
            self._backoff = self._loop.call_later(seconds, then or self._rearm)

    def _run_short(self) -> None:
        """Leave the queue, for lack of descriptors or memory, until there are some again."""
        self._disarm()
        self._stay_out(PAUSE)

    def _disarm(self) -> None:
        """Let neither the listener nor the baton wake this worker.

        Otherwise it would be woken for a connection that it can't accept, and would take the baton from a
        worker that can.
        """
        self._end_backoff()
        self._registrations.disarm()

    def _end_backoff(self) -> None:
        if self._backoff is not None:
            self._backoff.cancel()
            self._backoff = None

    @property
    def _is_resting(self) -> bool:
        return self._rest is not None and self._rest.is_on

    def _on_rest(self) -> None:
        """The primary has told this worker, which is to leave, to take no connections; or revoked that."""
        self._board.serving(not self._is_resting)
        if self._is_resting:
            self._disarm()
        else:
            self._rearm()

    def _on_room(self) -> None:
        """The server has room again."""
        if self._backoff is None:
            self._rearm()

    def _reconsider(self) -> None:
        """A connection has ended: end the back-off early if this worker no longer holds too many.

        With short connections it would otherwise be idle for the whole back-off.
        """
        if self._backoff is None or self._registrations.are_disarmed:
            return
        if self._board.should_yield(MOST_EXCESS):
            self._connections.when_fewer(self._reconsider)
            return
        self._end_backoff()
        self._rearm()

    def _rearm(self) -> None:
        self._backoff = None
        if self._registrations.listener is None or self._limit.is_full or self._is_resting:
            return
        if not self._registrations.are_disarmed:
            self._registrations.listener.rearm()
        elif free_descriptors(self._sock.fileno(), self._descriptor_limit) > 0:
            self._registrations.rearm()
        else:
            self._stay_out(PAUSE)

    def _on_baton(self) -> None:
        """Look again: a worker may have swallowed a wake-up. The next baton is for another worker."""
        if self._registrations.are_disarmed:
            return  # this worker left the queue in this very turn: the baton is for another
        if take_baton(self._sock.baton) and self._registrations.listener is not None:
            if self._backoff is not None:  # the others did not take the connection that was left to them
                self._is_over = False
            self._end_backoff()
            self._registrations.rearm()
