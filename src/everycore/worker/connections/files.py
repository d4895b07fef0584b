"""Connections that are counted by their open file: by what the kernel has, whatever became of the object.

A program gets a socket from `accept()` and may close it, drop it, detach its number, make a TLS socket or a
file of it, or copy it; nothing tells us. But the file behind it, which `fstat` names, is open as long as a
number of this process stands for it. That is looked at when somebody asks.
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
#: Those that have ended are sifted out when this many are remembered at least.
_FEW: Final = 64


class CountedFile:
    """The file of one connection, and a number that stood for it when it was last looked at."""

    __slots__ = ("_transport", "file", "number")

    def __init__(self, file: SocketFile, number: int) -> None:
        self.file = file
        self.number = number
        self._transport: Callable[[], Any] = _none

    def carried_by(self, transport: Any) -> None:
        """Remember the transport on it, weakly: one that its program drops ends its connection."""
        try:
            self._transport = weakref.ref(transport)
        except TypeError:  # one of uvloop's TLS: the file is cut instead
            self._transport = _none

    def has_number(self) -> bool:
        """Whether the number still stands for this file."""
        return socket_file(self.number) == self.file

    def abort(self) -> None:
        """Cut the connection, whoever uses it."""
        transport = self._transport()
        if transport is not None:
            transport.abort()
            return
        try:
            copy = duplicate(self.number)  # for another thread may close the number, and a third one get it
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
    """All counted files of this worker. Safe to use in any thread: each step on the dictionary is atomic."""

    def __init__(self) -> None:
        self._files: dict[SocketFile, CountedFile] = {}
        self._most = _FEW
        #: Addresses of listeners whose connections are accepted where we do not see it, by family.
        self._unseen: set[tuple[int, Any]] = set()
        #: Look for such listeners when somebody next asks: others than these, by number.
        self.seek_but: Callable[[], Iterable[int]] | None = None

    def add(self, fd: int, transport: Any = None) -> None:
        """Count the file behind `fd`; once, if it is counted already."""
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
        """Count, whenever somebody asks, the connections to the address that the listener `fd` has.

        For a listener that accepts in C, so that nothing else tells us of them.
        """
        with _borrowed(fd) as sock:
            self._unseen.add(_where(sock))

    def count_open(self) -> int:
        """How many are open."""
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
                sock.getpeername()  # a listener has none
        except OSError:
            return False
        return True

    def abort(self) -> None:
        """Cut them all."""
        self.count_open()
        for counted in list(self._files.values()):
            counted.abort()

    def _sift(self) -> None:
        """Forget those that have ended; so seldom that the looking costs a few microseconds a connection."""
        looked_at = self._look()
        self._most = max(2 * len(self._files), looked_at, _FEW)

    def _look(self) -> int:
        """Forget those that have ended. Returns how many numbers of this process were looked at for that.

        All of them, if one has lost the number that we know: another may stand for it.
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
    """A socket object for a number that somebody else owns: C's class, which `everycore run` leaves alone."""
    sock = _socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


def _where(sock: _socket.socket) -> tuple[int, Any]:
    """Family, and port or path: a listener on every host has another host than its connections."""
    name = sock.getsockname()
    return sock.family, name[1] if isinstance(name, tuple) else name


def _none() -> None:
    return None
