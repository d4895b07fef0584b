"""Binding a socket that a worker's program has made (`everycore run`).

The very socket that came over the link is bound, so that every option that the program has set on it holds.
The program is told what a process without a cluster would be told. Invariant: errors are the kernel's own,
without words of everycore's; a failure leaves no file behind.

Programs remove the file of a unix socket before they bind (asyncio does) and when they end. Here the workers
share one file. So it has a second, hidden name, from which it is linked again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Collection
from typing import Any, Final

from everycore.system.listeners import BoundSocket, DatagramSocket, StreamListener
from everycore.system.sockets import remove_stale, short_name, use_mode
from everycore.system.watched_accept import Watch

_SPARE: Final = re.compile(rb"\.everycore-(\d+)-(\d+)")
#: How often a port that was free a moment ago may turn out to be taken.
_ATTEMPTS: Final = 16


def bind_given(
    sock: socket.socket,
    address: Any,
    *,
    mode: int | None = None,
    place: tuple[bytes | None, bytes | None] = (None, None),
) -> BoundSocket:
    """Bind `sock` and own it. Raises OSError as bind(2) does; `sock` then still belongs to the caller.

    `place`: a folder, and the path of a unix socket relative to it, as the kernel is to have it.
    """
    path = address if sock.family == socket.AF_UNIX else None
    if path is not None:
        _bind_unix(sock, os.fsencode(path), mode, *place)
    else:
        _bind_ip(sock, address)
    sock.setblocking(False)
    if sock.type == socket.SOCK_STREAM:
        return GivenListener(sock, backlog=128, path=path, mode=mode)
    return DatagramSocket(sock, backlog=0, path=path, mode=mode)


def is_v6only(sock: socket.socket) -> bool:
    """Whether this socket takes only one IP version. An IPv4 socket always does."""
    return sock.family != socket.AF_INET6 or bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _bind_unix(
    sock: socket.socket, path: bytes, mode: int | None, folder: bytes | None, name: bytes | None
) -> None:
    with contextlib.ExitStack() as stack:
        if folder is not None and name is not None and os.path.join(folder, name) != name:
            # The primary has one thread, so no other code sees its working directory meanwhile.
            here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, here)
            stack.callback(os.fchdir, here)
            os.chdir(folder)
        else:
            name = path if path.startswith(b"\0") else short_name(stack, path)
        use_mode(stack, mode)
        sock.bind(name)


def _bind_ip(sock: socket.socket, address: Any) -> None:
    """Bind. A free port is chosen first and then bound by number: otherwise a pause could not keep it.

    (See `sockets._pin_port`; here there is only one socket.)
    """
    if address[1] != 0:
        sock.bind(address)
        return
    for attempt in range(_ATTEMPTS):
        with socket.socket(sock.family, sock.type) as probe:
            if sock.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(is_v6only(sock)))
            probe.bind(address)
            port = probe.getsockname()[1]
        try:
            sock.bind((address[0], port, *address[2:]))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def copy_options(given: socket.socket, own: socket.socket, options: Collection[tuple[int, int]]) -> None:
    """Copy those of `options`, plain numbers, that a program has set on `given` to `own`."""
    for level, option in options:
        with contextlib.suppress(OSError):  # an option of another protocol
            value = given.getsockopt(level, option)
            if value != own.getsockopt(level, option):
                own.setsockopt(level, option, value)


class GivenListener(StreamListener):
    """A listener from a program. The file of a unix socket is put back when a program has removed it."""

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
        self.watch = Watch()
        self._spare: bytes | None = None
        #: #: Whether a program has removed the file, and it was put back.
        self._was_removed = False
        self._keep_spare()

    def restore_name(self) -> None:
        """Put the file back if it is missing."""
        if self._spare is not None and self.path is not None and not os.path.lexists(self.path):
            with contextlib.suppress(OSError):
                os.link(self._spare, self.path, follow_symlinks=False)
                self._was_removed = True

    def listen(self) -> None:
        """As `StreamListener.listen`."""
        super().listen()
        self._keep_spare()

    def suspend(self) -> None:
        """As `StreamListener.suspend`: the file stays, and its socket is dead."""
        self.restore_name()
        super().suspend()
        if self.family == socket.AF_UNIX and not self.is_listening:
            self._drop_spare()

    def bar(self) -> bool:
        """As `BoundSocket.bar`. Always False: programs may have kept the socket that they made."""
        return False

    def keep_file(self) -> None:
        """Leave the file to the socket's next owner, unless the program had removed it."""
        self._drop_spare()
        if not self._was_removed:
            super().keep_file()

    def close(self) -> None:
        """Give the address up and remove the file, as `BoundSocket.close` does."""
        super().close()
        self._drop_spare()

    def _leave_file(self) -> None:
        self.restore_name()  # the program removes it at its end
        self._spare = None  # kept: the next program may remove the file before it binds (see `restore`)
        super()._leave_file()

    def _keep_spare(self) -> None:
        if self._spare is not None or self._file is None or self.path is None:
            return
        folder = os.path.dirname(os.fsencode(self.path))
        _remove_spares_of_the_dead(folder, self._file[1])
        spare = os.path.join(folder, b".everycore-%d-%d" % (os.getpid(), self._file[1]))
        try:
            os.link(self.path, spare, follow_symlinks=False)
        except OSError:
            return  # the file system has no hard links: nothing puts back a file that a program removes
        self._spare = spare

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            with contextlib.suppress(OSError):
                os.unlink(spare)


def restore(path: str | bytes, file: tuple[int, int], name: str | bytes) -> None:
    """Put the unix socket `file` back at `path`, if the path is free and the folder has a second name of it.

    name: where it was bound. This is for a socket that a primary has left to the next one, and whose program
    has removed the file before it binds.
    """
    folder, base = os.path.split(os.fsencode(path))
    if base != os.path.basename(os.fsencode(name)) or os.path.lexists(path):
        return
    with contextlib.suppress(OSError):
        for spare in os.listdir(folder or b"."):
            match = _SPARE.fullmatch(spare)
            if match and int(match[2]) == file[1]:
                whole = os.path.join(folder, spare)
                found = os.lstat(whole)
                if (found.st_dev, found.st_ino) == file:
                    os.link(whole, path, follow_symlinks=False)
                    return


def _remove_spares_of_the_dead(folder: bytes, own: int) -> None:
    """Remove the second names that killed primaries have left. `own`: the inode of this socket.

    A name with that inode belongs to this socket, which the service manager has kept and which is not stale.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(folder or b"."):
            match = _SPARE.fullmatch(name)
            if not match or os.path.exists(b"/proc/" + match[1]):
                continue
            spare = os.path.join(folder, name)
            if int(match[2]) == own == os.lstat(spare).st_ino:
                os.unlink(spare)
            else:
                remove_stale(spare, socket.SOCK_STREAM)
