"""Connections that are counted by their open file: by the kernel's state, whatever became of the object.

A program gets a socket from `accept()` and may close it, drop it, detach its descriptor, make a TLS socket or
a file from it, or copy it. Nothing reports that to everycore. But the file behind the socket, which `fstat`
identifies, is open as long as a descriptor of this process refers to it. The files are checked when the
count is read.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import socket
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from everycore.system.descriptors import SocketFile, duplicate, numbers_of_sockets, socket_file

_WITH_PORTS: Final = (socket.AF_INET, socket.AF_INET6)
#: Ended connections are sifted out when at least this many are remembered.
_FEW: Final = 64


class CountedFile:
    """The file of one connection, and a descriptor that referred to it at the last check."""

    __slots__ = ("_transport", "file", "number")

    def __init__(self, file: SocketFile, number: int) -> None:
        self.file = file
        self.number = number
        self._transport: Callable[[], Any] = _none

    def carried_by(self, transport: Any) -> None:
        """Remember its transport. The reference is weak: dropping the transport must end the connection."""
        try:
            self._transport = weakref.ref(transport)
        except TypeError:  # uvloop's TLS transport takes no weak references: the file is shut down instead
            self._transport = _none

    def has_number(self) -> bool:
        """Whether the descriptor still refers to this file."""
        return socket_file(self.number) == self.file

    def abort(self) -> None:
        """Abort the connection, whatever uses it."""
        transport = self._transport()
        if transport is not None:
            transport.abort()
            return
        try:
            # Another thread may close the descriptor, and a third one may get its number.
            copy = duplicate(self.number)
        except OSError:
            return
        if socket_file(copy) != self.file:
            os.close(copy)
            return
        with socket.socket(fileno=copy) as sock:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # the peer has gone
                return


class Files:
    """All counted files of this worker. Any thread may use it: each step on the dictionary is atomic."""

    def __init__(self) -> None:
        self._files: dict[SocketFile, CountedFile] = {}
        self._most = _FEW
        #: Family and address of each listener whose connections are accepted unseen by everycore.
        self._unseen: set[tuple[int, Any]] = set()
        #: If set, look for such listeners at the next count. It returns the descriptors to leave out.
        self.seek_but: Callable[[], Iterable[int]] | None = None

    def add(self, fd: int, transport: Any = None) -> None:
        """Count the file behind `fd`. A file is counted once."""
        file = socket_file(fd)
        if file is None:
            return
        counted = self._files.get(file)
        if counted is None:
            if len(self._files) >= self._most:
                self._sift()
            counted = self._files[file] = CountedFile(file, fd)
        if transport is not None:
            counted.carried_by(transport)

    def find_at(self, fd: int) -> None:
        """Include the connections to the address of the listener `fd` in every count.

        This is for a listener that accepts in C: nothing else reports its connections.
        """
        with _borrowed(fd) as sock:
            self._unseen.add(_where(sock))

    def count_open(self) -> int:
        """How many counted connections are open."""
        self._look()
        if self.seek_but is not None:
            known, self.seek_but = self.seek_but, None
            self._seek_listeners({socket_file(fd) for fd in known()})
        if self._unseen:
            self._find_unseen()
        return len(self._files)

    def _seek_listeners(self, known: set[SocketFile | None]) -> None:
        for file, number in numbers_of_sockets().items():
            if file in known:
                continue
            with contextlib.suppress(OSError), _borrowed(number) as sock:
                if sock.family in _WITH_PORTS and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    self._unseen.add(_where(sock))

    def _find_unseen(self) -> None:
        for file, number in numbers_of_sockets().items():
            if file not in self._files and self._is_of_unseen(number):
                self._files[file] = CountedFile(file, number)

    def _is_of_unseen(self, number: int) -> bool:
        try:
            with _borrowed(number) as sock:
                if _where(sock) not in self._unseen:
                    return False
                sock.getpeername()  # raises for a listener, which has no peer
        except OSError:
            return False
        return True

    def abort(self) -> None:
        """Abort all of them."""
        self.count_open()
        for counted in list(self._files.values()):
            counted.abort()

    def _sift(self) -> None:
        """Forget ended connections, so rarely that the check costs a few microseconds a connection."""
        looked_at = self._look()
        self._most = max(2 * len(self._files), looked_at, _FEW)

    def _look(self) -> int:
        """Forget ended connections. Returns how many of this process's descriptors were checked for that.

        If a file has lost its known descriptor, all of them are checked: another may refer to the file.
        """
        astray = [counted for counted in list(self._files.values()) if not counted.has_number()]
        if not astray:
            return 0
        numbers = numbers_of_sockets()
        for counted in astray:
            number = numbers.get(counted.file)
            if number is None:
                self._files.pop(counted.file, None)
            else:
                counted.number = number
        return len(numbers)


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[_socket.socket]:
    """A socket object for a descriptor that other code owns.

    The class is C's own, which `everycore run` leaves alone.
    """
    sock = _socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


def _where(sock: _socket.socket) -> tuple[int, Any]:
    """The family, and the port or path, but no host: a wildcard listener's is not its connections' host."""
    name = sock.getsockname()
    return sock.family, name[1] if isinstance(name, tuple) else name


def _none() -> None:
    return None
