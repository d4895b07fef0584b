"""The reader that takes connections off a belt and gives them to a server.

It takes one message a turn of the loop, and acknowledges it after the turn. It sends `Full` to the primary
when this worker can take no more: its server is at its limit, or descriptors run short. HOT: `on_readable`
runs for every batch.

Invariant: a connection taken off a belt is given to the program, given back, or dropped on request within the
same call, even if the program closes its server in the middle of a batch. Its ack leaves only after the turn
in which the program was given the connection (why: `core.lanes`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import resource
import sys
import time
import weakref
from typing import Any, Final, Protocol

from everycore.core import wire
from everycore.core.lanes import MOST_CREDIT
from everycore.system import belt, packets, sockets
from everycore.system.descriptors import open_numbers
from everycore.system.preemption import LONG, Preemptions
from everycore.worker.connections.limits import ConnectionLimit
from everycore.worker.listening.clustersocket import ClusterSocket

log = logging.getLogger("everycore.worker")

#: A worker with fewer free descriptors than this, or than a quarter of the limit if that is less, reports
#: that it is full.
RESERVE: Final = 32
#: uvloop accepts by itself if this many more are free (`worker.connections.native_reader`).
HEADROOM: Final = 64
#: How often a worker that is short of descriptors checks whether it has some again, and how soon it repeats a
#: message that its belt did not take, in seconds.
LOOK_AGAIN: Final = 0.1
#: The least time between two log lines about a shortage of descriptors, in seconds.
TOLD_EVERY: Final = 60.0


class Giver(Protocol):
    """Gives the connections of one listener to one server. Each kind of event loop has its own class."""

    #: Turns of the loop between giving a connection to the program and acknowledging it. They suffice for the
    #: first data callback if the data was already there.
    turns: int

    def give(self, fd: int, peer: Any) -> None:
        """Give the program the connection `fd`. Raises nothing but SystemExit and KeyboardInterrupt."""
        ...

    def advance(self) -> None:
        """Advance the connections given so far. The primary no longer waits for their acknowledgement."""
        ...


class BeltReader:
    """Takes the connections of one `ClusterSocket` off its belt."""

    __slots__ = (
        "__weakref__", "_batch", "_ceiling", "_descriptor_limit", "_giver", "_loop", "_preemptions",
        "_receptions", "_rest", "_shortage", "_sock", "_spare", "_taken", "_told", "_unacked", "_unsaid",
        "_waits", "_was_single", "limit",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: ClusterSocket,
        giver: Giver,
        limit: ConnectionLimit,
        *,
        receptions: Receptions,
        descriptor_limit: int,
    ) -> None:
        self._loop = loop
        self._receptions = receptions
        self._descriptor_limit = descriptor_limit
        self._sock = sock
        self._giver = giver
        self.limit = limit
        self._waits: asyncio.TimerHandle | None = None
        #: How many descriptors were free when they were last counted, and how many connections must be open
        #: to count them again.
        self._spare = self._ceiling = sys.maxsize
        self._shortage = Shortage()
        #: The room that the primary was told of: 0 if there is none, None if it is unlimited.
        self._told: int | None = None
        #: The number of messages that were given to the program and are not acknowledged yet.
        self._unacked = 0
        #: The last acknowledgement, if the belt did not take it.
        self._unsaid: wire.Acked | None = None
        self._was_single = False
        self._preemptions = Preemptions()
        #: The number of connections taken so far.
        self._taken = 0
        #: The most connections in one message: never more than the descriptors kept in reserve.
        self._batch = min(belt.MOST_BATCH, max(reserve(), 1))
        #: (number, descriptor, peer) of the connections in the current message that the program has not been
        #: given yet, in reverse order.
        self._rest: list[tuple[int, int, Any]] = []

    def begin(self) -> None:
        """Ask the primary for connections, from now on and whenever there is room."""
        self._receptions.add(self)
        self._sock.when_closed(self._give_back)
        self.limit.watch(on_full=self._tell, on_room=self._tell)
        self._sock.tell_primary(wire.Serve(self._batch))
        self._tell()

    def on_readable(self) -> None:
        """Take one message.

        The reader takes at most one message a turn. It takes none while the last message held a single
        connection and is not acknowledged: the primary can still recall a connection from the belt, but not
        one that was read and waits behind a blocking handler. (Connections in a batch are cheap. Reading on
        meanwhile gains a tenth of the throughput.)
        """
        if self._unacked and self._was_single:
            return
        self.take()

    def take(self) -> bool:
        """Take one message. Returns whether more may follow."""
        sock = self._sock
        try:
            received = packets.receive(sock)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            received = None
        if received is None:
            self._loop.remove_reader(sock.fileno())
            return False
        self._preemptions.begin()
        since, before = time.monotonic(), self._taken
        data, fds, truncated = received
        handover = wire.decode_handover(data)
        limit, give = self.limit, self._giver.give
        self._rest = rest = list(zip(itertools.count(handover.first), fds, handover.peers))
        rest.reverse()
        while rest:  # `give` may close the socket, which gives the rest back
            if limit.is_full:
                self._tell()
                self._give_back()
                break
            _, fd, peer = rest.pop()
            peer = sockets.off_the_wire(peer)
            if not limit.drop(fd, peer):
                give(fd, peer)
        lost = len(handover.peers) - len(fds)
        if truncated or lost or (fds and fds[-1] >= self._descriptor_limit) or limit.open >= self._ceiling:
            self._look_at_descriptors(lost)
        if limit.room is not None or self._told is not None:
            self._tell()
        last = handover.first + max(len(handover.peers), 1) - 1
        self._unacked += 1
        self._taken += len(handover.peers)
        self._was_single = len(handover.peers) == 1
        self._loop.call_soon(self._later, self._giver.turns - 1, last, since, before)
        return self._sock.grant is not None

    def take_all(self) -> None:
        """Take all that has come so far, before this worker leaves.

        The primary may have no other worker for these connections.
        """
        while self._sock.grant is not None and self.take():
            pass

    def _give_back(self) -> None:
        """Give the rest of the current message back to the primary."""
        patience = belt.PATIENCE  # for all of them together: the loop is blocked meanwhile
        while self._rest:
            number, fd, peer = self._rest.pop()
            if not self._sock.tell_primary_reliably(wire.GiveBack(number, peer), (fd,), patience=patience):
                patience = 0.0
                lost = ConnectionAbortedError("a connection could not be given back to the primary")
                tell_failed(self._loop, lost)
            os.close(fd)

    def _later(self, turns: int, last: int, since: float, before: int) -> None:
        if turns:
            self._loop.call_soon(self._later, turns - 1, last, since, before)
        else:  # the cost of one connection is the time `since`, divided by the connections taken in it
            busy, taken = time.monotonic() - since, max(self._taken - before, 1)
            if busy > LONG * taken:
                busy = self._preemptions.busy(busy)
            seconds = busy / taken
            self._unacked -= 1
            self._acknowledge(wire.Acked(last, int(seconds * 1e6)))
            self._giver.advance()

    def _acknowledge(self, message: wire.Acked) -> None:
        """Send `message` now or, if the belt is full, later.

        Without it the primary would give this worker no more connections.
        """
        self._unsaid = None
        if self._sock.grant is not None and not self._sock.tell_primary(message):
            self._unsaid = message  # it covers all earlier ones
            self._look_again_later()

    # --- no room ------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Tell the primary that this worker is full, or how much room it has, unless it knows already."""
        room = self.limit.room
        if self._spare < MOST_CREDIT:
            room = max(self._spare, 0) if room is None else min(max(self._spare, 0), room)
        if room is not None and room >= MOST_CREDIT:
            room = None  # the primary never gives that many at once
        if room == self._told or self._sock.grant is None:
            return
        if self._sock.tell_primary(wire.Full() if room == 0 else wire.Serve(self._batch, room)):
            self._told = room
        else:
            self._look_again_later()

    def _look_at_descriptors(self, lost: int = 0) -> None:
        """Take no more while descriptors are short.

        Beyond the limit the kernel drops connections silently.
        """
        if lost > 0:
            log.error("out of file descriptors: connections lost: %d", lost)
        was_short, self._spare = (
            self._spare <= 0,
            free_descriptors(self._sock.fileno(), self._descriptor_limit),
        )
        # Numbers above the limit may be in use from now on, so that the next ones tell nothing.
        self._ceiling = self.limit.open + max(self._spare // 2, 1)
        if self._spare <= 0 and not was_short and self._sock.grant is not None:
            # What lies on the belt would be read over the limit. The primary takes it back.
            self._loop.remove_reader(self._sock.fileno())
            self._shortage.tell(self._loop.time())
        elif self._spare > 0 and was_short:
            self._loop.add_reader(self._sock.fileno(), self.on_readable)
        self._tell()
        if self._spare < MOST_CREDIT:
            self._look_again_later()

    def _look_again_later(self) -> None:
        if self._waits is None:
            self._waits = self._loop.call_later(LOOK_AGAIN, self._look_again)

    def _look_again(self) -> None:
        self._waits = None
        if self._sock.grant is None:
            return
        if self._spare < MOST_CREDIT:
            self._look_at_descriptors()
        else:
            self._tell()
        if self._unsaid is not None:
            self._acknowledge(self._unsaid)


class Shortage:
    """Logs a shortage of descriptors: otherwise a worker that takes no connections would look idle."""

    def __init__(self) -> None:
        self._told: float | None = None

    def tell(self, now: float) -> None:
        """Log it, unless that was done a moment ago. now: in seconds, by any clock."""
        if self._told is not None and now - self._told < TOLD_EVERY:
            return
        self._told = now
        log.error(
            "file descriptors run short (the limit is %d): no connection is taken until some are closed",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )


class Receptions:
    """All belt readers of this process."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[BeltReader] = weakref.WeakSet()

    def add(self, reader: BeltReader) -> None:
        """Remember a reader, weakly."""
        self._all.add(reader)

    def take_all(self) -> None:
        """Let each reader take all that has come so far."""
        for reader in tuple(self._all):
            reader.take_all()


def tell_failed(loop: asyncio.AbstractEventLoop, exc: BaseException) -> None:
    """Report to the loop that a connection did not become a transport, as asyncio's own servers do."""
    loop.call_exception_handler(
        {"message": "Error on transport creation for incoming connection", "exception": exc}
    )


def free_descriptors(fd: int, limit: int) -> int:
    """How many more descriptors this process may open before it has `limit`; `fd` is any open one.

    The lowest free number says little once connections have ended: it is low, however many are open.
    """
    if numbers := open_numbers():
        return limit - (len(numbers) - 1)  # one of them was for the look
    found = lowest_free(fd)
    return 0 if found is None else limit - found


def lowest_free(fd: int) -> int | None:
    """The lowest free descriptor number, or None if there is none; `fd` is any open one."""
    try:
        found = os.dup(fd)
    except OSError:
        return None
    os.close(found)
    return found


def descriptor_limit() -> int:
    """The descriptor number at which this process stops taking connections."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft - reserve()


def reserve() -> int:
    """How many descriptors are left when this process stops taking connections."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return RESERVE if soft == resource.RLIM_INFINITY else min(RESERVE, soft // 4)
