"""Making the sockets that the primary listens on.

Functions to bind, listen, suspend, and adopt a descriptor. An `OSError` says what a process without a cluster
would see, with the real address in the text. Invariant: a failure leaves no socket and no file behind.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import socket
import stat
from collections.abc import Collection, Iterator
from typing import Any, Final

from everycore.kernel import LONGEST_PATH, os_error
from everycore.system.descriptors import duplicate, is_socket
from everycore.system.folders import open_folder

#: Families and kinds that the primary can listen on.
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
KINDS: Final = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
_LARGEST_INT: Final = 2**31 - 1


def describe(address: Any, family: int = 0) -> str:
    """An address as an operator writes it.

    `127.0.0.1:80`, `[::1]:80`, a path, or `@name` for an abstract name.
    """
    if isinstance(address, tuple):
        host, port = address[0], address[1]
        host = host or ("::" if family == socket.AF_INET6 else "0.0.0.0")
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    text = os.fsdecode(address) if isinstance(address, bytes) else str(address)
    return "@" + text[1:] if text.startswith("\0") else text


def on_the_wire(address: Any) -> Any:
    """An address as `wire` carries it: a list instead of a tuple, and bytes for a path that is not ASCII."""
    if isinstance(address, tuple):
        return list(address)
    if isinstance(address, str) and (not address.isascii() or address.startswith("\0")):
        return os.fsencode(address)
    return address


def off_the_wire(address: Any) -> Any:
    """An address as the socket module returns it: all but abstract names become str."""
    if isinstance(address, list):
        return tuple(address)
    if isinstance(address, bytes) and address[:1] not in (b"", b"\0"):
        return os.fsdecode(address)
    return address


def is_accepted_from(listener: socket.socket, fd: int) -> bool:
    """Whether `fd` is a connection of the address on which `listener` listens."""
    try:
        sock = socket.socket(fileno=fd)
    except (OSError, ValueError):
        return False
    try:
        here, there = sock.getsockname(), listener.getsockname()
        if sock.family != listener.family or sock.type != listener.type:
            return False
        if isinstance(there, tuple):  # a listener of all addresses has connections of each
            here, there = here[1], there[1]
        return bool(here == there) and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return False
    finally:
        sock.detach()


def checked_backlog(backlog: Any) -> int:
    """`backlog` if `socket.listen` would take it. Raises as that does (TypeError, OverflowError)."""
    if (number := operator.index(backlog)) > _LARGEST_INT:
        raise OverflowError("signed integer is greater than maximum")
    return max(number, 0)


def listen_error(number: int, what: str, why: str = "") -> OSError:
    """The `OSError` subclass for `number`, with the kernel's words, the address, and an extra reason."""
    return OSError(number, f"cannot listen on {what}: {os.strerror(number)}{why and f' ({why})'}")


def bind(
    address: Any,
    *,
    family: int,
    kind: int,
    v6only: bool = True,
    mode: int | None = None,
    user: int | None = None,
) -> socket.socket:
    """A bound socket that does not listen yet. Raises OSError; its text names the address."""
    what = describe(address, family)
    if family == socket.AF_UNIX:
        return bind_unix(address, kind=kind, mode=mode, user=user)
    try:
        sock = _bind_ip(address, family, kind, v6only=v6only)
        if kind == socket.SOCK_STREAM and address[1] == 0:
            sock = _pin_port(sock, address, family, v6only=v6only)
    except OSError as exc:
        raise listen_error(exc.errno or errno.EINVAL, what) from None
    except OverflowError:
        raise listen_error(errno.EINVAL, what) from None
    return sock


def _bind_ip(address: Any, family: int, kind: int, *, v6only: bool) -> socket.socket:
    # Named, not left at 0: asyncio turns Nagle's algorithm off only for a socket that says it is TCP.
    sock = socket.socket(family, kind, socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else 0)
    try:
        if kind == socket.SOCK_STREAM:
            # As asyncio does on POSIX: a port in TIME_WAIT may be bound at once.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _pin_port(sock: socket.socket, address: Any, family: int, *, v6only: bool) -> socket.socket:
    """Bind the port that the kernel chose once more, by number, on a new socket.

    `suspend` would free a port that the kernel chose (only an explicit bind sets SOCK_BINDPORT_LOCK). Both
    sockets have SO_REUSEADDR and neither listens, so the kernel allows the second bind, and the port is never
    free in between.
    """
    with sock:
        port = sock.getsockname()[1]
        return _bind_ip((address[0], port, *address[2:]), family, socket.SOCK_STREAM, v6only=v6only)


def start_listening(sock: socket.socket, backlog: int, what: str) -> None:
    """Call listen(2).

    Two bound sockets may share a port with SO_REUSEADDR; the second `listen` then fails.
    """
    try:
        sock.listen(backlog)
    except OSError as exc:
        raise listen_error(exc.errno or errno.EINVAL, what) from None


def suspend(sock: socket.socket) -> None:
    """Refuse new connections and keep the port.

    Linux takes a listening TCP socket back to bound (tcp_disconnect).
    """
    sock.shutdown(socket.SHUT_RD)


# --- unix sockets -----------------------------------------------------------------------------------------


def host_to_resolve(host: Any) -> Any:
    """Return `host` for `socket.getaddrinfo`: for a number its bytes, which need no codec for IDNA.

    That codec takes 3 ms to import, with the tables of Unicode. A name stays a text: a program may have put a
    resolver of its own in place of `getaddrinfo`.
    """
    is_number = isinstance(host, str) and host.isascii() and (":" in host or host.replace(".", "").isdigit())
    return host.encode("ascii") if is_number else host


def absolute_path(path: str | bytes | os.PathLike[str]) -> str:
    """`path` for the primary, whose working directory may differ. Abstract names stay as they are."""
    name = os.fsdecode(path)
    return name if name.startswith("\0") else os.path.abspath(name)


def bind_unix(
    path: str | bytes, *, kind: int = socket.SOCK_STREAM, mode: int | None = None, user: int | None = None
) -> socket.socket:
    """A socket bound to `path` (absolute, or abstract with a leading NUL).

    A stale file is removed only if lstat says that it is a socket of this user and connect is refused. `mode`
    is set by the umask before the name becomes visible. user: another user who can change the folder
    (`reached`), and to whom a stale file may belong.
    """
    what = describe(path)
    raw = os.fsencode(path)
    try:
        if raw.startswith(b"\0"):
            return _bound_unix(raw, kind)
        with reached(raw, is_guarded=user is not None) as name:
            remove_stale(name, kind, user=user)
            sock = _bound_at(name, kind, mode)
    except OSError as exc:
        number = exc.errno or errno.EINVAL
        raise listen_error(number, what) from None
    return sock


@contextlib.contextmanager
def reached(path: str | bytes, *, is_guarded: bool) -> Iterator[bytes]:
    """A name of `path`. is_guarded: through its folder, where no link of another user leads elsewhere."""
    raw = os.fsencode(path)
    with contextlib.ExitStack() as stack:
        if is_guarded:
            folder, base = os.path.split(raw)
            fd = open_folder(folder)
            stack.callback(os.close, fd)
            raw = b"/proc/self/fd/%d/%s" % (fd, base)
        yield raw


def _bound_unix(name: bytes, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.bind(name)
    except BaseException:
        sock.close()
        raise
    return sock


def _bound_at(path: bytes, kind: int, mode: int | None) -> socket.socket:
    """Bind with the permissions `mode`."""
    with contextlib.ExitStack() as stack:
        name = short_name(stack, path)
        use_mode(stack, mode)
        return _bound_unix(name, kind)


def short_name(stack: contextlib.ExitStack, path: bytes) -> bytes:
    """A name of the same file that fits into sockaddr_un, valid within `stack`.

    A path that is too long is reached through its folder (/proc/self/fd/N/name).
    """
    if len(path) < LONGEST_PATH:
        return path
    folder, base = os.path.split(path)
    fd = os.open(folder or b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    name = b"/proc/self/fd/%d/%s" % (fd, base)
    if len(name) >= LONGEST_PATH:
        raise os_error(errno.ENAMETOOLONG)
    return name


def use_mode(stack: contextlib.ExitStack, mode: int | None) -> None:
    """Give new files the permissions `mode`, within `stack`."""
    if mode is not None:
        # The primary has one thread, so no other code sees this umask.
        stack.callback(os.umask, os.umask(0o777 & ~mode))


def remove_stale(path: bytes, kind: int, *, user: int | None = None) -> None:
    """Unlink `path` if it is a dead socket of this user or of `user`; let bind fail on anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in (os.geteuid(), user):
        return
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            with contextlib.ExitStack() as stack:
                probe.connect(short_name(stack, path))
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        except OSError:
            return  # a full backlog (EAGAIN) or another kind (EPROTOTYPE): the socket is alive


def unlink_if_same(path: str | bytes, inode: tuple[int, int], *, is_guarded: bool = False) -> None:
    """Remove the file of a unix listener, unless another socket has taken its place."""
    with contextlib.suppress(OSError), reached(path, is_guarded=is_guarded) as name:
        found = os.lstat(name)
        if (found.st_dev, found.st_ino) == inode:
            os.unlink(name)


def change_mode(path: str | bytes, inode: tuple[int, int], mode: int) -> None:
    """Give the file of a unix listener the permissions `mode`, if it still is that file."""
    with contextlib.suppress(OSError), reached(path, is_guarded=True) as name:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) == inode:
                os.chmod(f"/proc/self/fd/{fd}", mode & 0o777)
        finally:
            os.close(fd)


def file_identity(path: str | bytes, *, is_guarded: bool = False) -> tuple[int, int]:
    """Device and inode of `path` itself."""
    with reached(path, is_guarded=is_guarded) as name:
        found = os.lstat(name)
    return found.st_dev, found.st_ino


# --- listen(fd=) ------------------------------------------------------------------------------------------


def adopt(fd: int, *, kind: int, internal: Collection[int]) -> socket.socket:
    """Duplicate descriptor `fd` of this process, which must be a bound, unconnected socket of `kind`.

    Raises OSError: EBADF closed, ENOTSOCK not a socket, EPROTOTYPE of another kind, EISCONN connected,
    EDESTADDRREQ unbound (as listen(2) names it), EBADF one of everycore's own.
    """
    what = f"descriptor {fd}"

    def refuse(number: int, why: str) -> OSError:
        return OSError(number, f"cannot listen on {what}: {why}")

    if fd in internal:
        raise refuse(errno.EBADF, "it belongs to everycore itself")
    try:
        if not is_socket(fd):
            raise os_error(errno.ENOTSOCK)
        copy = socket.socket(fileno=duplicate(fd))
    except (OSError, ValueError, OverflowError) as exc:
        number = getattr(exc, "errno", None) or errno.EBADF
        why = "it is not a socket" if number == errno.ENOTSOCK else "it is not open in the primary"
        raise refuse(number, why) from None
    try:
        if copy.type != kind:
            raise refuse(
                errno.EPROTOTYPE, f"it is a {copy.type.name} socket, not {socket.SocketKind(kind).name}"
            )
        if _is_connected(copy):
            raise refuse(errno.EISCONN, "it is connected")
        if not is_bound(copy):
            raise refuse(errno.EDESTADDRREQ, "it is not bound to an address")
    except BaseException:
        copy.close()
        raise
    return copy


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def is_bound(sock: socket.socket) -> bool:
    """Whether the socket has an address; for IP, a port."""
    name = sock.getsockname()
    return bool(name[1]) if isinstance(name, tuple) else bool(name)
