"""What stands behind a socket of the program that the primary has bound: the state of an intercepted socket.

Find it by descriptor, keep it right through `dup`, `detach` and a number that is used again, and give the
listener up when the last descriptor is closed. Invariant: an entry is believed only if the kernel still has
the same file behind the number (`st_ino`), for a program may close numbers behind our back.

Why by descriptor and not by object: `socket.socket` has slots, and servers hand numbers on
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
    """An address that a socket of the program has got through the primary.

    Three stages. *Asked*: a free port that nobody has asked the number of, so the primary knows nothing yet,
    and `inner` is None. *Bound*: the primary holds the address for us, and what lies under the program's
    descriptors is the belt, or the shared listener; no more the program's own socket, which may now be the
    primary's listener, and whose blocking mode is everybody's who has it. *Listening*.
    """

    __slots__ = (
        "__weakref__", "_is_open", "_takes_turns", "address", "fds", "inner", "inode", "is_listening", "name",
    )  # fmt: skip

    def __init__(self, fd: int, address: Any) -> None:
        self.address = address
        #: What `getsockname()` says, where that is not what the primary says (a path is as it was asked for).
        self.name: Any = None
        self.inner: ClusterSocket | None = None
        self.is_listening = False
        #: It is open by which way its connections come; a loop of ours takes turns at the shared listener.
        self._is_open = self._takes_turns = False
        self.fds = {fd}
        self.inode = os.fstat(fd).st_ino

    @property
    def is_shared(self) -> bool:
        """Whether the program's descriptors are the primary's socket itself (datagrams)."""
        return isinstance(self.inner, SharedSocket)

    def source(self) -> ClusterSocket | None:
        """Where a loop of ours takes the connections: at a shared listener in turn, if that is still open."""
        if self._is_open:
            self._is_open, self._takes_turns = False, True
        return (
            self.inner.sharing if self._takes_turns and isinstance(self.inner, EitherSocket) else self.inner
        )

    def put_listener(self, inner: ClusterSocket, name: Any = None) -> None:
        """The primary holds the address. The program's epolls, which know the old file, get to know ours."""
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
        """Let the listener listen. Raises OSError.

        by_our_loop: a loop of ours asks for its connections next. It takes turns at a shared listener.
        """
        assert self.inner is not None
        self.inner.listen(backlog)
        self.is_listening = True
        self._is_open = by_our_loop and isinstance(self.inner, EitherSocket)
        if not self._is_open:
            self.inner.tell_primary(wire.Serve(1))

    def serve_by_hand(self) -> None:
        """No loop of ours has asked where its connections come from: they come by the belt."""
        if self._is_open and self.inner is not None:
            self._is_open = False
            self.inner.tell_primary(wire.Serve(1))

    def put_under(self, fd: int) -> None:
        """Put our file where the program's is. The number, and what the program knows of its socket, stay."""
        assert self.inner is not None
        os.dup2(self.inner.fileno(), fd, os.get_inheritable(fd))

    def close(self) -> None:
        """The program has closed it."""
        if self.inner is not None:
            self.inner.close()


class Registry:
    """All intercepted sockets of this process."""

    def __init__(self) -> None:
        self._by_fd: dict[int, InterceptedSocket] = {}
        #: Called when a listener was given up because the program closed its socket.
        self.when_closed: Callable[[InterceptedSocket], None] = lambda _: None
        #: Belts by file, for numbers that the program made by itself (`os.dup`, `socket.fromfd`).
        self._by_inode: weakref.WeakValueDictionary[int, InterceptedSocket] = weakref.WeakValueDictionary()

    def find(self, fd: int) -> InterceptedSocket | None:
        """What stands behind `fd`; None for an ordinary socket. Called for every call of every socket."""
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
        """As `find`, also for a number that we have not seen yet: for the calls that are made once."""
        intercepted = self.find(fd)
        if intercepted is not None or not self._by_inode or fd < 0:
            return intercepted
        intercepted = self._by_inode.get(os.fstat(fd).st_ino)
        if intercepted is not None:
            self.add(fd, intercepted)
        return intercepted

    def add(self, fd: int, intercepted: InterceptedSocket) -> None:
        """`fd` stands for `intercepted` too."""
        self._by_fd[fd] = intercepted
        intercepted.fds.add(fd)

    def numbers(self) -> list[int]:
        """The numbers of this process that are known to stand for one."""
        return [fd for fd in list(self._by_fd) if self.find(fd) is not None]

    def granted(self, intercepted: InterceptedSocket) -> None:
        """`intercepted` has a listener behind it: its file is another one."""
        self._by_inode[intercepted.inode] = intercepted

    def lend(self, fd: int) -> None:
        """Leave `fd` alone until it is added again."""
        self._by_fd.pop(fd, None)

    def forget(self, fd: int) -> None:
        """`fd` is closed; with the last one, the listener is given up."""
        intercepted = self._by_fd.pop(fd, None)
        if intercepted is not None:
            self.closed(fd, intercepted)

    def closed(self, fd: int, intercepted: InterceptedSocket) -> None:
        """`fd`, which was `intercepted`'s and is lent, is closed."""
        intercepted.fds.discard(fd)
        if not intercepted.fds:
            self._by_inode.pop(intercepted.inode, None)
            intercepted.close()
            if intercepted.inner is not None:
                self.when_closed(intercepted)

    def watch(self, sock: socket.socket, fd: int) -> None:
        """Notice it when `sock` is thrown away without having been closed."""
        weakref.finalize(sock, self.find, fd).atexit = False

    def forked(self) -> None:
        """Let a forked child use the sockets, as it does inherited listeners; the parent alone owns them."""
        for intercepted in set(self._by_fd.values()):
            grant = intercepted.inner.grant if intercepted.inner is not None else None
            if grant is not None:
                grant.users += 1  # so that no last user of this process says that the listener is closed
