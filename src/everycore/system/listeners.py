"""The sockets that the primary holds for its workers: listeners, and sockets that receive datagrams."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from typing import Any, ClassVar, Protocol, Self

from everycore.system import closing, sockets
from everycore.system.descriptors import close_now
from everycore.system.watched_accept import Watch


class SocketKeeper(Protocol):
    """Keeps duplicates of sockets for the next primary: a service manager does."""

    def keep(self, sock: BoundSocket) -> bool:
        """Note that `sock` listens. Returns whether a duplicate is kept; a second call answers the same."""

    def let_go(self, sock: BoundSocket) -> bool:
        """Note that `sock` is about to be closed here. Returns whether its duplicate lives on."""


class BoundSocket:
    """A socket of the primary that has an address: a listener, or a datagram socket.

    `real` is what `getsockname()` returns (for a unix socket, the path asked for). `owned`: no process
    outside the cluster has the socket too. `user`: another user who can change the folder of its path; see
    `sockets.bind_unix`.
    """

    kind: ClassVar[socket.SocketKind]

    def __init__(
        self,
        sock: socket.socket,
        *,
        backlog: int,
        path: str | bytes | None,
        mode: int | None,
        user: int | None = None,
    ) -> None:
        self.sock = sock
        self.backlog = backlog
        self.mode = mode
        self.user = user
        self.path = path
        self.owned = True
        self.family = sock.family
        self.real: Any = path if path is not None else sock.getsockname()
        self.what = sockets.describe(self.real, self.family)
        self.is_listening = False
        self._file = self._made_file()
        #: Accepts in place of accept(2). None if the open file belongs to the cluster alone, and stays
        #: non-blocking.
        self.watch: Watch | None = None
        self.keeper: SocketKeeper | None = None

    @property
    def file(self) -> tuple[int, int] | None:
        """Device and inode of the file that this unix socket has made; None without such a file."""
        return self._file

    @classmethod
    def bound(
        cls,
        address: Any,
        *,
        family: int,
        v6only: bool,
        backlog: int,
        mode: int | None = None,
        user: int | None = None,
    ) -> Self:
        """Bind `address`. Raises OSError."""
        sock = sockets.bind(address, family=family, kind=cls.kind, v6only=v6only, mode=mode, user=user)
        sock.setblocking(False)
        path = address if family == socket.AF_UNIX else None
        return cls(sock, backlog=backlog, path=path, mode=mode, user=user)

    @classmethod
    def adopted(cls, fd: int, *, backlog: int, internal: Collection[int]) -> Self:
        """Take over a duplicate of `fd`. The cluster may not silence it: `suspend` would stop its owner too.

        Raises OSError.
        """
        sock = sockets.adopt(fd, kind=cls.kind, internal=internal)
        sock.setblocking(False)
        made = cls(sock, backlog=backlog, path=None, mode=None)
        made.owned = False
        return made

    def listen(self) -> None:
        """Receive what comes to the address, for the first time or again. The OSError names the address."""
        raise NotImplementedError

    def was_shut_down(self) -> bool:
        """Whether a process that shares it has shut it down (shutdown(2)), so that nobody can connect."""
        return False

    def suspend(self) -> None:
        """Refuse what comes, as far as this kind of socket can, and keep the address."""
        raise NotImplementedError

    def bar(self) -> bool:
        """Let no handshake begin until this listens again. Returns False if that is not possible."""
        return False

    def turn_away(self) -> None:
        """Refuse new connections from now on and keep those that wait, if this kind of socket can."""

    def keep_file(self) -> None:
        """Leave the file to the socket's next owner."""
        self._file = None

    def abandon(self) -> None:
        """In a forked child: close the child's copy. The address and its file stay with the parent."""
        self._file = None
        close_now(self.sock)
        self._end_watch()

    def close(self) -> None:
        """Give the address up and remove the file that this made, unless the next primary gets both."""
        self.is_listening = False
        if self.keeper is not None and self.keeper.let_go(self):
            self._leave_file()
        self.sock.close()
        self._end_watch()
        if self._file is not None and self.path is not None:
            sockets.unlink_if_same(self.path, self._file, is_guarded=self.user is not None)
            self._file = None

    def _leave_file(self) -> None:
        """Keep the file, at which the next primary listens."""
        self._file = None

    def _keep(self) -> None:
        """Have the listening socket kept, if there is a keeper. It is then no longer owned alone."""
        if self.keeper is not None and self.keeper.keep(self):
            self.owned = False

    def _made_file(self) -> tuple[int, int] | None:
        """Which file a unix socket has made; None for an abstract name and for IP."""
        if self.path is None or os.fsencode(self.path)[:1] in (b"\0", b""):
            return None
        return sockets.file_identity(self.path, is_guarded=self.user is not None)

    def _end_watch(self) -> None:
        if self.watch is not None:
            self.watch.close()


class StreamListener(BoundSocket):
    """A stream socket that can listen, refuse for a while, and listen again."""

    kind = socket.SOCK_STREAM

    def __init__(
        self,
        sock: socket.socket,
        *,
        backlog: int,
        path: str | bytes | None,
        mode: int | None,
        user: int | None = None,
    ) -> None:
        super().__init__(sock, backlog=backlog, path=path, mode=mode, user=user)
        self._reuses = 0  # whether SO_REUSEADDR must be set again
        self._is_barred = False

    @classmethod
    def adopted(cls, fd: int, *, backlog: int, internal: Collection[int]) -> Self:
        """As `BoundSocket.adopted`."""
        made = super().adopted(fd, backlog=backlog, internal=internal)
        made.watch = Watch()
        return made

    def listen(self) -> None:
        """Accept connections, for the first time or again."""
        if self.is_listening and not self.was_shut_down():
            return
        if self.sock.fileno() < 0:
            self.sock = sockets.bind_unix(self.path or "", mode=self.mode, user=self.user)
            self.sock.setblocking(False)
            self._file = self._made_file()
        if self._reuses:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._is_barred:
            closing.unbar(self.sock)
            self._is_barred = False
        sockets.start_listening(self.sock, self.backlog, self.what)
        self.is_listening = True
        self._keep()

    def was_shut_down(self) -> bool:
        """As `BoundSocket.was_shut_down`. Not of a unix socket, which cannot listen again after that."""
        if not self.is_listening or self.family == socket.AF_UNIX:
            return False
        return not self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)

    def suspend(self) -> None:
        """Refuse new connections and keep the address."""
        if not self.is_listening or not self.owned:
            return
        self.is_listening = False
        if self.family == socket.AF_UNIX:
            self.sock.close()  # the file stays: connecting to it is refused, and `listen` finds it stale
        else:
            # While this does not listen, any socket with SO_REUSEADDR could take the port.
            self._reuses = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            sockets.suspend(self.sock)

    def bar(self) -> bool:
        """As `BoundSocket.bar`, for a TCP listener that no other process holds: it would share the filter."""
        if self.owned and self.is_listening and self.family != socket.AF_UNIX and not self._is_barred:
            self._is_barred = closing.bar(self.sock)
        return self._is_barred

    def turn_away(self) -> None:
        """As `BoundSocket.turn_away`, for a unix listener. On TCP it would reset waiting connections."""
        if self.owned and self.is_listening and self.family == socket.AF_UNIX:
            self.sock.shutdown(socket.SHUT_RD)


class DatagramSocket(BoundSocket):
    """A bound datagram socket. It has no listen(2) and cannot refuse."""

    kind = socket.SOCK_DGRAM

    def listen(self) -> None:
        """A bound datagram socket receives; this only records it."""
        self.is_listening = True
        self._keep()

    def suspend(self) -> None:
        """Do nothing. Datagrams wait in the socket's buffer; the kernel drops them when it is full."""
