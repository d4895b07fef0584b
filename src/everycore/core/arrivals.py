"""Connections that have reached a listener and that no worker has: those accepted here, then the backlog.

This module knows whether connections may be accepted at all. Connections are opaque to it, and the backlog is
a function that takes one connection out. Invariant: `next` takes none out of the backlog while any is queued.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeAlias, TypeVar

#: Connections queued at a time when the listener shuts. Each of them is a descriptor.
MOST_TAKEN_IN: Final = 256

C = TypeVar("C")


class NoConnection(enum.Enum):
    """Why the backlog gave no connection."""

    EMPTY = "no connection waits; the listener is readable when one does"
    TROUBLE = "accepting fails and may go on failing (no descriptors), until `resume_accepting_at`"
    CLOSED = "the socket does not listen"


#: Takes one connection out of the backlog.
Accept: TypeAlias = Callable[[], C | NoConnection]


class Arrivals(Generic[C]):
    """The arrivals of one listener."""

    __slots__ = ("accepted", "flows", "is_shutting", "queue", "refused")

    def __init__(self) -> None:
        #: Accepted and waiting for a worker, the next one first.
        self.queue: deque[C] = deque()
        #: How many connections were accepted so far.
        self.accepted = 0
        #: How many of the accepted connections were given up.
        self.refused = 0
        #: Whether the listener listens and a worker is ready.
        self.flows = False
        #: Whether the whole backlog is being taken in. Later connections are not served.
        self.is_shutting = False

    def begin(self) -> None:
        """The listener listens, and a worker is ready."""
        self.flows = True
        self.is_shutting = False

    def cease(self) -> None:
        """The listener does not listen, or no worker is ready: accept nothing."""
        self.flows = False

    def shut(self) -> None:
        """Take in every connection that has come, and then accept nothing until `begin`."""
        self.is_shutting = self.flows
        self.flows = False

    def take_in(self, accept: Accept[C], most: int) -> bool:
        """While shutting, queue up to `most` connections of the backlog. Returns whether to continue at once.

        With many queued, the next portion waits until some have gone out.
        """
        for _ in range(most):
            if len(self.queue) >= MOST_TAKEN_IN:
                return False
            accepted = accept()
            if isinstance(accepted, NoConnection):
                self.is_shutting = accepted is NoConnection.TROUBLE
                return False
            self.accepted += 1
            self.queue.append(accepted)
        return True

    def come(self, connection: C) -> None:
        """Queue a connection that was accepted earlier and that a worker may have only now."""
        self.accepted += 1
        self.queue.append(connection)

    def next(self, accept: Accept[C]) -> C | NoConnection:
        """Return the next connection of the queue, or else of the backlog."""
        if self.queue:
            return self.queue.popleft()
        if not self.flows:
            return NoConnection.EMPTY
        accepted = accept()
        if not isinstance(accepted, NoConnection):
            self.accepted += 1
        return accepted

    def take_back(self, connections: list[C]) -> None:
        """Put `connections`, in this order, at the head of the queue again."""
        self.queue.extendleft(reversed(connections))

    def drop(self) -> list[C]:
        """Empty the queue and return the connections that were in it."""
        dropped = list(self.queue)
        self.refused += len(dropped)
        self.queue.clear()
        return dropped
