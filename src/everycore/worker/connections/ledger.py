"""The one account of this worker's connections. Drains, limits and the board all go by it.

Each connection that this worker accepted has one `Entry`, however it got into the program: from the moment it
is accepted until no descriptor of this process refers to it. The detector of that end calls `Entry.closed`,
and the ledger passes it on: to the limit of the server, to the board, and to the callers that wait. The
detectors are

* `connections.counted`: the socket under an asyncio transport, which sees its own `close`;
* `loops.accepted`: the object that stands for the socket under a uvloop transport;
* `connections.native_reader`: uvloop's own count of open connections. The end of a single one is not
  reported, so such a reader is a `Group`, whose connections have no entries;
* `connections.files`: the open file, for anything that does not report its close: a socket that `accept()`
  returned, a descriptor that was detached from one, a copy made by `dup`.

Connections that the program opened itself, to a database for instance, are not counted: they end with the
program. (Node does the same: `worker.disconnect()` waits for the connections of servers.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from everycore.worker.connections.files import Files

if TYPE_CHECKING:
    from everycore.system.board import WorkerBoard
    from everycore.worker.connections.limits import ConnectionLimit


class Connection(Protocol):
    """The part of a connection that the ledger uses."""

    def end(self, *, abort: bool) -> None:
        """Close its transport, or abort it."""
        ...


class Group(Protocol):
    """Connections of a server that are counted together."""

    server: ConnectionLimit

    def count(self) -> int:
        """How many connections are open now."""
        ...

    def connections(self) -> list[Connection]:
        """The connections that are open now."""
        ...


class Entry:
    """One open connection. HOT: made for every connection of a server.

    A subclass may be the connection itself, which saves an object.
    """

    __slots__ = ("_ledger", "connection", "server")

    def __init__(self, ledger: Ledger, server: ConnectionLimit, connection: Connection) -> None:
        self._ledger: Ledger | None = ledger
        self.server = server
        self.connection = connection

    @property
    def is_open(self) -> bool:
        """Whether `closed` has not been called yet."""
        return self._ledger is not None

    def closed(self) -> None:
        """Record that the connection has ended. Does nothing if it is recorded already."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.closed(self)


class Ledger:
    """The connections of this worker that are open now.

    `opened` and `closed` are called in the loop's thread. `watch_file` and `open` may be used in any thread.
    """

    def __init__(self, board: WorkerBoard) -> None:
        self._board = board
        self._entries: set[Entry] = set()
        self._groups: list[Group] = []
        self._files = Files()
        #: Whether there has been a connection.
        self.has_seen = False
        self._when_none: list[Callable[[], None]] = []
        self._when_fewer: Callable[[], None] | None = None

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._entries) + self._open_in_groups() + self._files.count_open()

    def opened(self, server: ConnectionLimit, connection: Connection) -> Entry:
        """Record a connection of `server`. Call `closed` on the returned entry when it has ended."""
        entry = Entry(self, server, connection)
        self.enter(entry)
        return entry

    def enter(self, entry: Entry) -> None:
        """Record the connection of `entry`. HOT: called for every connection."""
        self._entries.add(entry)
        self.has_seen = True
        self._board.opened()
        entry.server.opened()

    def closed(self, entry: Entry) -> None:
        """The connection of `entry` has ended. The entry calls this, once."""
        self._entries.discard(entry)
        self._board.closed()
        if self._when_fewer is not None:
            self._tell_fewer()
        entry.server.closed()
        if not self._entries:
            self._tell_none()

    def add(self, group: Group) -> None:
        """Count the connections of `group` too. The group itself informs the board and the limit."""
        self._groups.append(group)
        self.has_seen = True

    def remove(self, group: Group) -> None:
        """Stop counting `group`: it accepts no more, and none of its connections is open."""
        self._groups.remove(group)

    def recounted(self, group: Group, change: int) -> None:
        """Record that `change` more connections of `group` are open than before, or fewer."""
        self._tell_fewer()
        group.server.recounted(change)
        self._tell_none()

    def _tell_fewer(self) -> None:
        if self._when_fewer is not None:
            callback, self._when_fewer = self._when_fewer, None
            callback()

    def _tell_none(self) -> None:
        if self._when_none and self._is_empty:
            callbacks, self._when_none = self._when_none, []
            for callback in callbacks:
                callback()

    @property
    def _is_empty(self) -> bool:
        return not self._entries and not self._open_in_groups()

    def _open_in_groups(self) -> int:
        return sum(group.count() for group in self._groups)

    def watch_file(self, fd: int, transport: Any = None) -> None:
        """Count the connection behind the descriptor `fd` as long as any of this process's refers to it.

        A connection is counted once, even if it is added again. `transport`: the transport to abort instead
        of the file, while it exists.
        """
        self.has_seen = True
        self._files.add(fd, transport)

    def watch_listener(self, fd: int) -> None:
        """Count the connections of the program's own listener `fd`, which C code accepts unseen."""
        self._files.find_at(fd)

    def seek_listeners(self, known: Callable[[], Iterable[int]]) -> None:
        """Look for listeners of the program that everycore does not see, when `open` is next read.

        known: returns the descriptors of the listeners that everycore does see.
        """
        self._files.seek_but = known

    def connections_of(self, server: ConnectionLimit) -> list[Connection]:
        """The open connections of one server."""
        found = [entry.connection for entry in self._entries if entry.server is server]
        for group in self._groups:
            if group.server is server:
                found += group.connections()
        return found

    def when_none(self, callback: Callable[[], None]) -> None:
        """Call `callback`, now or later, once no connection is open, except those watched by file."""
        if self._is_empty:
            callback()
        else:
            self._when_none.append(callback)

    def when_fewer(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the next connection of a server ends."""
        self._when_fewer = callback

    def abort(self) -> None:
        """Abort every open connection."""
        for entry in tuple(self._entries):
            entry.connection.end(abort=True)
        for group in self._groups:
            for connection in group.connections():
                connection.end(abort=True)
        self._files.abort()
