"""The one account of this worker's connections: what a drain waits for, what limits and the board are about.

Each connection that this worker accepted has one `Entry`, however it got into the program, from the moment it
is accepted until no number of this process stands for it. Whatever detects that end calls `Entry.closed`, and
the ledger passes it on: to the limit of its server, to the board, and to those that wait. The detectors are

* `connections.counted`: the socket under a transport of asyncio, which sees its own `close`;
* `loops.accepted`: what stands for the socket under a transport of uvloop;
* `connections.files`: the open file, for what tells nothing when it is closed: a socket that `accept()`
  returned, a number that was detached from one, a copy made by `dup`.

What the program opened itself, to a database for instance, is not counted: it ends with the program. (Node
does the same: `worker.disconnect()` waits for the connections of servers.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from everycore.worker.connections.files import Files

if TYPE_CHECKING:
    from everycore.system.board import WorkerBoard
    from everycore.worker.connections.limits import ConnectionLimit


class Connection(Protocol):
    """What the ledger needs of a connection."""

    def end(self, *, abort: bool) -> None:
        """Close its transport, or cut it off."""
        ...


class Entry:
    """One open connection. HOT: made for every connection of a server."""

    __slots__ = ("_ledger", "connection", "server")

    def __init__(self, ledger: Ledger, server: ConnectionLimit, connection: Connection) -> None:
        self._ledger: Ledger | None = ledger
        self.server = server
        self.connection = connection

    @property
    def is_open(self) -> bool:
        """Whether nobody has said yet that it is closed."""
        return self._ledger is not None

    def closed(self) -> None:
        """The connection has ended. Does nothing if it was said before."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.closed(self)


class Ledger:
    """The connections of this worker that are open now.

    `opened` and `closed` are called in the thread of the loop. `watch_file` and `open` may be called in any.
    """

    def __init__(self, board: WorkerBoard) -> None:
        self._board = board
        self._entries: set[Entry] = set()
        self._files = Files()
        #: Whether there was one.
        self.has_seen = False
        self._when_none: list[Callable[[], None]] = []
        self._when_fewer: Callable[[], None] | None = None

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._entries) + self._files.count_open()

    def opened(self, server: ConnectionLimit, connection: Connection) -> Entry:
        """A connection of `server` was accepted; call `closed` of what this returns when it has ended."""
        entry = Entry(self, server, connection)
        self._entries.add(entry)
        self.has_seen = True
        self._board.opened()
        server.opened()
        return entry

    def closed(self, entry: Entry) -> None:
        """`entry` has ended; called by the entry, once."""
        self._entries.discard(entry)
        self._board.closed()
        if self._when_fewer is not None:
            callback, self._when_fewer = self._when_fewer, None
            callback()
        entry.server.closed()
        if not self._entries:
            callbacks, self._when_none = self._when_none, []
            for callback in callbacks:
                callback()

    def watch_file(self, fd: int, transport: Any = None) -> None:
        """Count the connection behind the number `fd` while any number of this process stands for it.

        Once, if it is counted so already. `transport`: what to abort instead of the file, while it exists.
        """
        self.has_seen = True
        self._files.add(fd, transport)

    def watch_listener(self, fd: int) -> None:
        """Count the connections that a listener of the program's own accepts in C, without our seeing it."""
        self._files.find_at(fd)

    def seek_listeners(self, known: Callable[[], Iterable[int]]) -> None:
        """The program may listen where we do not see it: look for that when somebody asks what is open.

        known: the numbers of listeners that we do see.
        """
        self._files.seek_but = known

    def connections_of(self, server: ConnectionLimit) -> list[Connection]:
        """The open connections of one server."""
        return [entry.connection for entry in self._entries if entry.server is server]

    def when_none(self, callback: Callable[[], None]) -> None:
        """Call `callback` once none is open of those that are not watched by file: now, or later."""
        if not self._entries:
            callback()
        else:
            self._when_none.append(callback)

    def when_fewer(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the next connection of a server has ended."""
        self._when_fewer = callback

    def abort(self) -> None:
        """Cut what is open."""
        for entry in tuple(self._entries):
            entry.connection.end(abort=True)
        self._files.abort()
