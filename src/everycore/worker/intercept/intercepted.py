"""The state of an intercepted socket: a socket of the program that the primary has bound.

The registry finds it by descriptor, keeps it right across `dup`, `detach` and reused numbers, and gives the
listener up when the last descriptor is closed. Invariant: an entry is valid only while the kernel has the
same file behind the number (`st_ino`), because a program may close numbers unnoticed.

The key is the descriptor rather than the object: `socket.socket` has slots, and servers pass numbers on
(`socket.socket(fileno=sock.detach())`).
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable
from typing import Any

from everycore.core import wire
from everycore.system import aliases
from everycore.worker.listening.clustersocket import ClusterSocket, SharedSocket
from everycore.worker.listening.eithersocket import EitherSocket


class InterceptedSocket:
    """An address that a socket of the program has been given through the primary.

    It has three stages. *Asked*: a free port whose number nothing has asked for yet, so that the primary does
    not know of it, and `inner` is None. *Bound*: the primary holds the address, and the file behind the
    program's descriptors is the belt, or the shared listener. It is no longer the program's own socket, on
    which the primary may now listen, and whose blocking mode is shared by every process that holds it.
    *Listening*.
    """

    __slots__ = (
        "__weakref__", "_is_open", "_takes_turns", "address", "fds", "inner", "inode", "is_listening", "name",
    )  # fmt: skip

    def __init__(self, fd: int, address: Any) -> None:
        self.address = address
        #: What `getsockname()` returns if it differs from the primary's address (a path stays as given).
        self.name: Any = None
        self.inner: ClusterSocket | None = None
        self.is_listening = False
        #: Whether it is still undecided how connections come, and whether a loop of ours takes turns at the
        #: shared listener.
        self._is_open = self._takes_turns = False
        self.fds = {fd}
        self.inode = os.fstat(fd).st_ino

    @property
    def is_shared(self) -> bool:
        """Whether the program's descriptors are the primary's socket itself (datagrams)."""
        return isinstance(self.inner, SharedSocket)

    def source(self) -> ClusterSocket | None:
        """The socket from which a loop of ours takes the connections: in turns if that is still undecided."""
        if self._is_open:
            self._is_open, self._takes_turns = False, True
        return (
            self.inner.sharing if self._takes_turns and isinstance(self.inner, EitherSocket) else self.inner
        )

    def put_listener(self, inner: ClusterSocket, name: Any = None) -> None:
        """Put the listener under the descriptors, and tell the program's epolls, which know the old file."""
        self.inner = inner
        self.name = inner.getsockname() if name is None else name
        registrations = aliases.registrations_of(self.fds)
        for registration in registrations:
            aliases.unregister(registration)
        for fd in self.fds:
            self.put_under(fd)
        for registration in registrations:
            aliases.register_again(registration)
        self.inode = os.fstat(inner.fileno()).st_ino

    def begin(self, backlog: int, *, by_our_loop: bool) -> None:
        """Make the listener listen. Raises OSError.

        by_our_loop: a loop of ours asks for the source next, and takes turns at a shared listener.
        """
        assert self.inner is not None
        self.inner.listen(backlog)
        self.is_listening = True
        self._is_open = by_our_loop and isinstance(self.inner, EitherSocket)
        if not self._is_open:
            self.inner.tell_primary(wire.Serve(1))

    def serve_by_hand(self) -> None:
        """Let the connections come by the belt: no loop of ours has asked for their source."""
        if self._is_open and self.inner is not None:
            self._is_open = False
            self.inner.tell_primary(wire.Serve(1))

    def put_under(self, fd: int) -> None:
        """Put our file in place of the program's.

        The number stays, and so does the program's socket object.
        """
        assert self.inner is not None
        os.dup2(self.inner.fileno(), fd, os.get_inheritable(fd))

    def close(self) -> None:
        """Close the listener: the program has closed its last descriptor."""
        if self.inner is not None:
            self.inner.close()


class Registry:
    """All intercepted sockets of this process."""

    def __init__(self) -> None:
        self._by_fd: dict[int, InterceptedSocket] = {}
        #: Called when a listener was given up because the program closed its socket.
        self.when_closed: Callable[[InterceptedSocket], None] = lambda _: None
        #: Belts by inode, for descriptors that the program has made by itself (`os.dup`, `socket.fromfd`).
        self._by_inode: weakref.WeakValueDictionary[int, InterceptedSocket] = weakref.WeakValueDictionary()

    def find(self, fd: int) -> InterceptedSocket | None:
        """The intercepted socket of `fd`; None for an ordinary one. Runs at every call of every socket."""
        intercepted = self._by_fd.get(fd)
        if intercepted is None:
            return None
        try:
            if os.fstat(fd).st_ino == intercepted.inode:
                return intercepted
        except OSError:
            pass
        self.forget(fd)
        return None

    def find_any(self, fd: int) -> InterceptedSocket | None:
        """As `find`, but also for an unknown descriptor. For calls that happen once."""
        intercepted = self.find(fd)
        if intercepted is not None or not self._by_inode or fd < 0:
            return intercepted
        intercepted = self._by_inode.get(os.fstat(fd).st_ino)
        if intercepted is not None:
            self.add(fd, intercepted)
        return intercepted

    def add(self, fd: int, intercepted: InterceptedSocket) -> None:
        """Record that `fd` stands for `intercepted` too."""
        self._by_fd[fd] = intercepted
        intercepted.fds.add(fd)

    def numbers(self) -> list[int]:
        """The descriptors of this process that are known to stand for an intercepted socket."""
        return [fd for fd in list(self._by_fd) if self.find(fd) is not None]

    def granted(self, intercepted: InterceptedSocket) -> None:
        """Record that `intercepted` has a listener, and so another file."""
        self._by_inode[intercepted.inode] = intercepted

    def lend(self, fd: int) -> None:
        """Ignore `fd` until it is added again."""
        self._by_fd.pop(fd, None)

    def forget(self, fd: int) -> None:
        """Record that `fd` is closed. With the last descriptor, the listener is given up."""
        intercepted = self._by_fd.pop(fd, None)
        if intercepted is not None:
            self.closed(fd, intercepted)

    def closed(self, fd: int, intercepted: InterceptedSocket) -> None:
        """Record that `fd` is closed, which belonged to `intercepted` and is lent."""
        intercepted.fds.discard(fd)
        if not intercepted.fds:
            self._by_inode.pop(intercepted.inode, None)
            intercepted.close()
            if intercepted.inner is not None:
                self.when_closed(intercepted)

    def watch(self, sock: socket.socket, fd: int) -> None:
        """Check `fd` when `sock` is collected without having been closed."""
        weakref.finalize(sock, self.find, fd).atexit = False

    def forked(self) -> None:
        """Let a forked child use the sockets as it uses inherited listeners. Only the parent owns them."""
        for intercepted in set(self._by_fd.values()):
            grant = intercepted.inner.grant if intercepted.inner is not None else None
            if grant is not None:
                grant.users += 1  # so that this process never reports the listener as closed
