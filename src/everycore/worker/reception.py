"""What takes connections off a belt and gives them to a server; every event loop's own class stands on it.

Job: one message a turn, the acknowledgement after the turn, and the refusal when descriptors run short. HOT:
`on_readable` runs for every batch.

Invariant: a connection taken off a belt is given to the program, given back, or closed, in this very call;
and its ack leaves only after the turn in which the program was given it (why: `core.dispatch`). Must not
import the primary's side.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from typing import TYPE_CHECKING, Any, Final

from everycore.core import wire
from everycore.system import belt, sockets
from everycore.worker.clustersocket import ClusterSocket

if TYPE_CHECKING:
    from everycore.worker.context import WorkerContext

#: With fewer free descriptor numbers than this (or a quarter of the limit) a worker says that it is full.
RESERVE: Final = 32
#: How often a worker that is short of descriptors looks whether it has some again, in seconds.
LOOK_AGAIN: Final = 0.1


class Reception:
    """Takes the connections of one `ClusterSocket`; a subclass says in `give` what becomes of each."""

    __slots__ = ("_context", "_loop", "_sock", "_waits")

    #: Turns between giving a connection to the program and acknowledging it: until the first data callback,
    #: if the data was already there.
    turns: int

    def __init__(self, loop: asyncio.AbstractEventLoop, context: WorkerContext, sock: ClusterSocket) -> None:
        self._loop = loop
        self._context = context
        self._sock = sock
        self._waits: asyncio.TimerHandle | None = None

    def on_readable(self) -> None:
        """Take one message.

        At most one a turn: what lies on the belt can still be taken back by the primary.
        """
        sock = self._sock
        try:
            received = belt.receive(sock)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            received = None
        if received is None:
            self._loop.remove_reader(sock.fileno())
            return
        data, fds, truncated = received
        handover = wire.decode_handover(data)
        for at, fd in enumerate(fds):
            self.give(fd, sockets.off_the_wire(handover.peers[at]))
        if truncated or len(fds) < len(handover.peers) or (fds and fds[-1] >= self._context.descriptor_limit):
            self._run_short(len(handover.peers) - len(fds))
        last = handover.first + max(len(handover.peers), 1) - 1
        self._loop.call_soon(self._later, self.turns - 1, last)

    def give(self, fd: int, peer: Any) -> None:
        """Give the connection to the program; raises nothing but SystemExit and KeyboardInterrupt."""
        raise NotImplementedError

    def _later(self, turns: int, last: int) -> None:
        if turns:
            self._loop.call_soon(self._later, turns - 1, last)
        else:
            self._acknowledge(last)

    def _acknowledge(self, last: int) -> None:
        if self._sock.lease is not None:
            self._sock.say(wire.Acked(last))

    def _failed(self, exc: BaseException) -> None:
        """The program did not want it: as asyncio's own servers say."""
        self._loop.call_exception_handler(
            {"message": "Error on transport creation for incoming connection", "exception": exc}
        )

    def _run_short(self, lost: int) -> None:
        """Take no more while descriptors are short.

        Beyond the limit the kernel drops connections silently.
        """
        if lost:
            self._loop.call_exception_handler(
                {"message": f"out of file descriptors: {lost} connections were lost", "socket": self._sock}
            )
        if self._waits is None:
            self._sock.say(wire.Full())
            self._waits = self._loop.call_later(LOOK_AGAIN, self._look_again)

    def _look_again(self) -> None:
        self._waits = None
        if self._sock.lease is None:
            return
        try:
            lowest_free = os.dup(self._sock.fileno())
        except OSError:
            lowest_free = self._context.descriptor_limit
        else:
            os.close(lowest_free)
        if lowest_free >= self._context.descriptor_limit:
            self._waits = self._loop.call_later(LOOK_AGAIN, self._look_again)
        else:
            self._sock.say(wire.Serve(belt.MOST_BATCH))


def descriptor_limit() -> int:
    """The descriptor number from which on this process takes no more connections."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return soft - min(RESERVE, soft // 4)
