"""The sockets that the primary holds for its workers: those that listen, and those that receive datagrams."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from typing import Any, ClassVar, Protocol, Self

from everycore.system import closing, sockets
from everycore.system.descriptors import close_now
from everycore.system.watched_accept import Watch


class SocketKeeper(Protocol):
    """Whoever keeps a duplicate of our sockets for the next primary: a service manager."""

    def keep(self, sock: BoundSocket) -> bool:
        """`sock` listens. Returns whether a duplicate is kept; again: the same answer."""

    def let_go(self, sock: BoundSocket) -> bool:
        """`sock` is about to be closed here. Returns whether its duplicate lives on."""


class BoundSocket:
    """A socket of ours that has an address: a listener's, or one for datagrams.

    `real` is what `getsockname()` says (for a unix socket: the path asked for). `owned`: nobody outside the
    cluster has it too. user: another one, in whose reach its path is; see `sockets.bind_unix`.
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
        #: What is to accept in place of accept(2). None: the open file is ours alone, and stays non-blocking.
        self.watch: Watch | None = None
        self.keeper: SocketKeeper | None = None

    @property
    def file(self) -> tuple[int, int] | None:
        """Device and inode of the file that a unix socket has made; None: there is none of ours."""
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
        """Take over a duplicate of `fd`. It is not ours to silence: `suspend` would stop its owner too.

        Raises OSError.
        """
        sock = sockets.adopt(fd, kind=cls.kind, internal=internal)
        sock.setblocking(False)
        made = cls(sock, backlog=backlog, path=None, mode=None)
        made.owned = False
        return made

    def listen(self) -> None:
        """Receive what comes to the address (again). Raises OSError, complete with the address."""
        raise NotImplementedError

    def suspend(self) -> None:
        """Refuse what comes, as far as this kind of socket can, and keep the address."""
        raise NotImplementedError

    def bar(self) -> bool:
        """Let no handshake begin any more, until it listens again. False if that can't be had."""
        return False

    def turn_away(self) -> None:
        """If this kind of socket can: refuse newcomers from now on, and keep those who wait."""

    def keep_file(self) -> None:
        """Leave the file to whoever has the socket from now on."""
        self._file = None

    def abandon(self) -> None:
        """In a forked child: close our copy. The address and its file are the parent's."""
        self._file = None
        close_now(self.sock)
        self._end_watch()

    def close(self) -> None:
        """Give the address up, and remove the file that we made, unless the next primary is to have both."""
        self.is_listening = False
        if self.keeper is not None and self.keeper.let_go(self):
            self._leave_file()
        self.sock.close()
        self._end_watch()
        if self._file is not None and self.path is not None:
            sockets.unlink_if_same(self.path, self._file, is_guarded=self.user is not None)
            self._file = None

    def _leave_file(self) -> None:
        """The next primary listens there."""
        self._file = None

    def _keep(self) -> None:
        """It listens: have it kept, if somebody keeps it. Others have it too from then on."""
        if self.keeper is not None and self.keeper.keep(self):
            self.owned = False

    def _made_file(self) -> tuple[int, int] | None:
        """Which file a unix socket has made; None for an abstract name, and for IP."""
        if self.path is None or os.fsencode(self.path)[:1] in (b"\0", b""):
            return None
        return sockets.file_identity(self.path, is_guarded=self.user is not None)

    def _end_watch(self) -> None:
        if self.watch is not None:
            self.watch.close()


class StreamListener(BoundSocket):
    """A stream socket that listens, refuses for a while, and listens again."""

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
        self._reuses = 0  # SO_REUSEADDR is to be set again
        self._is_barred = False

    @classmethod
    def adopted(cls, fd: int, *, backlog: int, internal: Collection[int]) -> Self:
        """As `BoundSocket.adopted`."""
        made = super().adopted(fd, backlog=backlog, internal=internal)
        made.watch = Watch()
        return made

    def listen(self) -> None:
        """Accept connections (again)."""
        if self.is_listening:
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

    def suspend(self) -> None:
        """Refuse new connections, and keep the address."""
        if not self.is_listening or not self.owned:
            return
        self.is_listening = False
        if self.family == socket.AF_UNIX:
            self.sock.close()  # its file stays: connecting to it is refused, and `listen` finds it stale
        else:
            # While it does not listen, any socket could take the port that has SO_REUSEADDR as well.
            self._reuses = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            sockets.suspend(self.sock)

    def bar(self) -> bool:
        """As `BoundSocket.bar`: of a TCP listener that nobody else has, for the filter is everybody's."""
        if self.owned and self.is_listening and self.family != socket.AF_UNIX and not self._is_barred:
            self._is_barred = closing.bar(self.sock)
        return self._is_barred

    def turn_away(self) -> None:
        """As `BoundSocket.turn_away`: a unix listener can. With TCP it would reset those who wait."""
        if self.owned and self.is_listening and self.family == socket.AF_UNIX:
            self.sock.shutdown(socket.SHUT_RD)


class DatagramSocket(BoundSocket):
    """A bound datagram socket: it has no listen(2), and cannot refuse."""

    kind = socket.SOCK_DGRAM

    def listen(self) -> None:
        """A bound datagram socket receives."""
        self.is_listening = True
        self._keep()

    def suspend(self) -> None:
        """Datagrams wait in the socket's buffer, or are dropped by the kernel when that is full."""
