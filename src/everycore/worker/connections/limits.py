"""How many connections of one server may be open in this worker: `everycore.limit_connections`.

The ledger tells a limit when a connection opens or closes. The limit tells its watchers, which take
connections, when the server becomes full and when it has room again. So the worker tells the primary how much
room it has, and once that it is full, and the primary resends nothing. (Node's worker refuses every single
connection, and its primary offers the same one again at once: 4 000 to 7 000 times a second for one waiting
connection, measured.)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from everycore.aio.subscriptions import call_back, check_plain
from everycore.settings import check_count


class ConnectionLimit:
    """The limit of one server. Until a limit is set it only counts. HOT: called twice a connection.

    on_none: called whenever the last open connection has ended.
    """

    __slots__ = ("_most", "_on_drop", "_on_none", "_watchers", "is_full", "open")

    def __init__(self, on_none: Callable[[], None] | None = None) -> None:
        self._on_none = on_none
        #: The number of open connections.
        self.open = 0
        self._most: int | None = None
        self._on_drop: Callable[[Any], object] | None = None
        self._watchers: list[tuple[Callable[[], None], Callable[[], None]]] = []
        #: Whether the next connection is for another worker. The watchers have been told.
        self.is_full = False

    def set(self, most: int | None, on_drop: Callable[[Any], object] | None) -> None:
        """Allow at most `most` connections; None lifts the limit. Raises ConfigurationError, TypeError."""
        if most is not None:
            check_count("most", most, least=0)
        if on_drop is not None:
            check_plain(on_drop)
        self._most, self._on_drop = most, on_drop
        self.is_full = self._reaches_the_limit()
        self._tell()  # even if only the amount of room has changed

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return self._most is not None

    @property
    def room(self) -> int | None:
        """How many more connections may come to this worker.

        None if there is no limit, or if connections beyond it are closed here.
        """
        return None if self._most is None or self._on_drop is not None else max(self._most - self.open, 0)

    def drop(self, fd: int, peer: Any) -> bool:
        """Close the connection `fd` if it is to be dropped here as one too many. Returns whether it was."""
        if self._on_drop is None or self._most is None or self.open < self._most:
            return False
        os.close(fd)
        call_back(self._on_drop, peer)
        return True

    def opened(self) -> None:
        """A connection of the server was accepted. Only the ledger calls this."""
        self.open += 1
        if self._most is not None:
            self._look()

    def closed(self) -> None:
        """A connection of the server has ended. Only the ledger calls this."""
        self.open -= 1
        if self.is_full:
            self._look()
        if not self.open and self._on_none is not None:
            self._on_none()

    def recounted(self, change: int) -> None:
        """Record that `change` more connections are open, or fewer. Only a group of the ledger calls this."""
        self.open += change
        if self._most is not None:
            self._look()
        if change < 0 and not self.open and self._on_none is not None:
            self._on_none()

    def watch(self, *, on_full: Callable[[], None], on_room: Callable[[], None]) -> None:
        """Call `on_full` when the server becomes full, `on_room` when it has room again.

        After a new limit is set, one of them is called in any case. They are kept as long as the server.
        """
        self._watchers.append((on_full, on_room))

    def _reaches_the_limit(self) -> bool:
        return self._most is not None and self.open >= self._most and self._on_drop is None

    def _look(self) -> None:
        if self.is_full is not (is_full := self._reaches_the_limit()):
            self.is_full = is_full
            self._tell()

    def _tell(self) -> None:
        for on_full, on_room in tuple(self._watchers):
            (on_full if self.is_full else on_room)()


def limit_connections(
    server: Any, most: int | None, *, on_drop: Callable[[Any], object] | None = None
) -> None:
    """Let at most `most` connections of `server` be open in this worker; 0: none, None: no limit.

    server: a server that `asyncio.start_server`, `loop.create_server` or their unix counterparts returned in
        a worker.
    on_drop: without it, a connection beyond the limit goes to another worker, or waits in the backlog while
        all workers are full. With it, this worker accepts and closes the connection, and calls this plain
        function with the peer's address. (Node: `server.maxConnections`; `dropMaxConnection` and its event
        `drop`.)

    Raises: ConfigurationError for a number below 0; TypeError for another kind of server, or a coroutine
    function.
    """
    limit = getattr(server, "connection_limit", None)
    if not isinstance(limit, ConnectionLimit):
        raise TypeError(
            "limit_connections() takes a server that listens through the primary, "
            f"not {type(server).__name__}"
        )
    limit.set(most, on_drop)
