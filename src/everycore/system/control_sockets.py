"""Where control sockets are, and which process is at the other end.

A primary makes one in its user's folder: `$XDG_RUNTIME_DIR/everycore` or, for root, `/run/everycore`. Without
such a folder it takes an abstract name. Invariant: a file at which a process answers is never removed. A file
gets its final name only once its socket listens, so that no sweep takes it for a dead one.

Facts: an abstract name belongs to the network namespace, which several containers may share, and any process
may take it. So the name contains the pid namespace and the user, and the connecting side checks SO_PEERCRED.
These are the credentials of the process that called listen(2) or connect(2), at that time (unix(7)).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from everycore.system.sightings import unix_listeners
from everycore.system.sockets import bind_unix, file_identity, remove_stale, short_name, unlink_if_same

OF_ROOT: Final = "/run/everycore"
_SUFFIX: Final = ".sock"
_ABSTRACT: Final = "everycore"
#: The number of connections that may wait to be accepted.
_BACKLOG: Final = 128
#: The longest part of a file's name that comes from the service's name: the whole must fit behind
#: /proc/self/fd/N.
_MOST_NAME: Final = 60
_CREDENTIALS: Final = struct.Struct("iII")


class PeerCredentials(msgspec.Struct, frozen=True):
    """The process at the other end of a unix socket."""

    pid: int
    uid: int


class ControlAddress(msgspec.Struct, frozen=True):
    """Where a service may be asked. pid: for an abstract name, the process that has to answer there."""

    name: str
    pid: int | None = None

    @property
    def is_abstract(self) -> bool:
        """Whether the address is an abstract name, without a file."""
        return self.name.startswith("\0")

    def __str__(self) -> str:
        return f"@{self.name[1:]}" if self.is_abstract else self.name


class ControlListener:
    """A listening control socket and its file."""

    def __init__(self, sock: socket.socket, address: ControlAddress) -> None:
        self.sock = sock
        self.address = address
        self._identity = None if address.is_abstract else file_identity(address.name)

    def close(self) -> None:
        """Close the socket and remove its file."""
        if self._identity is not None:
            unlink_if_same(self.address.name, self._identity)
        self.sock.close()

    def abandon(self) -> None:
        """In a forked child: close the child's copy alone."""
        self.sock.close()


def folder_of(environ: Mapping[str, str], uid: int) -> str | None:
    """The folder of the control sockets of user `uid`; None if there is no place for one."""
    if uid == 0:
        return OF_ROOT
    base = environ.get("XDG_RUNTIME_DIR", "")
    return os.path.join(base, "everycore") if os.path.isabs(base) else None


def listen_at(path: str) -> ControlListener:
    """Listen at a path that the user has named. Raises OSError."""
    sock = bind_unix(path, mode=0o600)
    try:
        return _listening(sock, ControlAddress(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def listen_in(folder: str, name: str, pid: int) -> ControlListener:
    """Listen in `folder`, as a file whose name contains `name` and `pid`. Raises OSError."""
    _make_private(folder)
    _sweep(folder)
    word = "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "_" for char in name)
    path = _free(folder, word[:_MOST_NAME] or "_", pid)
    fresh = os.path.join(folder, f".{pid}{_SUFFIX}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)  # left by a process with this pid that was killed just here
    sock = bind_unix(fresh, mode=0o600)
    try:
        sock.listen(_BACKLOG)
        os.rename(fresh, path)
        return _listening(sock, ControlAddress(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        sock.close()
        raise


def _sweep(folder: str) -> None:
    """Remove the files of services that were killed: repeated kills and restarts would leave many."""
    for address in _files(folder):
        pid = address.name.removesuffix(_SUFFIX).rpartition(".")[2]
        if pid.isascii() and pid.isdigit() and len(pid) < 10:
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                remove_dead(address)  # the process may live in another pid namespace
            except OSError:
                continue


def _free(folder: str, word: str, pid: int) -> str:
    """A path that no other service of this process has."""
    for number in itertools.count(1):
        path = os.path.join(folder, f"{word}{f'-{number}' * (number > 1)}.{pid}{_SUFFIX}")
        remove_stale(os.fsencode(path), socket.SOCK_STREAM)
        if not os.path.lexists(path):
            return path
    raise AssertionError


def listen_abstract(uid: int, pid: int) -> ControlListener:
    """Listen at the abstract name of process `pid`. Raises OSError."""
    address = ControlAddress(f"\0{_ABSTRACT}/{_pid_namespace()}/{uid}/{pid}", pid)
    return _listening(bind_unix(address.name), address)


def _listening(sock: socket.socket, address: ControlAddress) -> ControlListener:
    try:
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        return ControlListener(sock, address)
    except BaseException:
        sock.close()
        raise


def _make_private(folder: str) -> None:
    """Ensure that the folder exists, belongs to this user, and is closed to others. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder!r} is not a folder that belongs to uid {os.geteuid()}")
    if stat.S_IMODE(found.st_mode) != 0o700:
        os.chmod(folder, 0o700)


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


# --- who connects -------------------------------------------------------------------------------------------


def credentials(sock: socket.socket) -> PeerCredentials:
    """The process at the other end (SO_PEERCRED). Raises OSError."""
    pid, uid, _ = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return PeerCredentials(pid, uid)


def may_steer(peer: PeerCredentials) -> bool:
    """Whether a primary of this user obeys that process."""
    return peer.uid in (0, os.geteuid())


def is_genuine(peer: PeerCredentials, address: ControlAddress) -> bool:
    """Whether the process that listens there is a service of this user, or of root."""
    if address.is_abstract:
        return peer.uid == os.geteuid() and peer.pid == address.pid
    if peer.uid in (0, os.geteuid()):
        return True
    try:  # root may look anywhere: the listening process must own the file then
        return os.geteuid() == 0 and os.lstat(address.name).st_uid == peer.uid
    except OSError:
        return False


def connect_to(address: ControlAddress, timeout: float) -> socket.socket:
    """Connect to the service that listens there, with `timeout` in seconds.

    Raises OSError: ConnectionRefusedError if no process listens, PermissionError if it is another user's.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        with contextlib.ExitStack() as stack:
            raw = os.fsencode(address.name)
            sock.connect(raw if address.is_abstract else short_name(stack, raw))
        peer = credentials(sock)
        if not is_genuine(peer, address):
            raise PermissionError(f"process {peer.pid} of uid {peer.uid} has taken that name")
        return sock
    except BaseException:
        sock.close()
        raise


def candidates(folder: str | None) -> Iterator[ControlAddress]:
    """Where services of this user may be: the files in the folder, and abstract names."""
    if folder is not None:
        yield from _files(folder)
    yield from _abstract_names()


def _files(folder: str) -> Iterator[ControlAddress]:
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(folder))
    for name in names:
        if name.endswith(_SUFFIX) and not name.startswith("."):
            yield ControlAddress(os.path.join(folder, name))


def _abstract_names() -> Iterator[ControlAddress]:
    beginning = f"@{_ABSTRACT}/{_pid_namespace()}/{os.geteuid()}/"
    for _, name in list(unix_listeners(os.getpid())):
        number = name.removeprefix(beginning)
        if number != name and number.isascii() and number.isdigit():
            yield ControlAddress(f"\0{beginning[1:]}{number}", int(number))


def remove_dead(address: ControlAddress) -> None:
    """Remove the file of a service that no longer answers, unless another one has come since."""
    with contextlib.suppress(OSError):
        identity = file_identity(address.name)
        if os.lstat(address.name).st_uid != os.geteuid():
            return
        try:
            connect_to(address, 1.0).close()
        except ConnectionRefusedError:
            unlink_if_same(address.name, identity)
