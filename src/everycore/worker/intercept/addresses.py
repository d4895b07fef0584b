"""Which `bind` of a program goes through the primary, and with which address.

This module turns the argument of `bind` into the address in the message. Invariant: an address that is
malformed, or not for the primary, is left to the kernel, so that its errors are Python's own.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Final

from everycore.kernel import LONGEST_PATH
from everycore.system import sockets
from everycore.system.statuses import status_of

#: multiprocessing's own sockets are in folders of such names (`multiprocessing.util.get_temp_dir`). Its
#: helper processes accept on them, and are not workers.
_PLUMBING: Final = b"pymp-"


def cluster_address(sock: socket.socket, address: Any) -> Any:
    """The address in the message: [host, port] or [host, port, flow, scope], numeric, or a path.

    None if the bind is not for the primary. Raises OSError, as `bind` does, for a host that does not resolve.
    """
    if sock.family not in sockets.FAMILIES or sock.type not in sockets.KINDS or _shares_its_port(sock):
        return None
    if sock.family == socket.AF_UNIX:
        return unix_path(address)
    if not isinstance(address, tuple) or not 2 <= len(address) <= (4 if _is_v6(sock) else 2):
        return None
    host, port, *rest = address
    if not isinstance(host, (str, bytes)) or type(port) is not int or not 0 <= port <= 65535:
        return None
    if not all(type(number) is int and 0 <= number < 1 << 32 for number in rest):
        return None
    if port == 0 and sock.type == socket.SOCK_DGRAM:
        return None  # a client's socket, or a port for one process alone
    return _numeric(sock, os.fsdecode(host), port, rest)


def is_own_datagram_service(sock: socket.socket, address: Any) -> bool:
    """Whether a datagram socket serves this process alone: the program shares its port by SO_REUSEPORT."""
    if sock.family not in sockets.FAMILIES or sock.type != socket.SOCK_DGRAM or not _shares_its_port(sock):
        return False
    return bool(address[1])


def is_port_zero(address: Any) -> bool:
    """Whether an address in a message asks for any port."""
    return isinstance(address, list) and address[1] == 0


def numeric_address(sock: socket.socket, address: Any) -> Any:
    """The address that a stream socket connects to, as in a message; None for other sockets and for names."""
    if sock.type != socket.SOCK_STREAM or sock.family not in sockets.FAMILIES:
        return None
    if sock.family == socket.AF_UNIX:
        return unix_path(address)
    try:
        loopback = "::1" if _is_v6(sock) else "127.0.0.1"
        host = loopback if address[0] == "localhost" else address[0]
        return [socket.inet_ntop(sock.family, socket.inet_pton(sock.family, host)), int(address[1])]
    except (OSError, TypeError, ValueError, IndexError):
        return None


def _is_v6(sock: socket.socket) -> bool:
    return sock.family == socket.AF_INET6


def _shares_its_port(sock: socket.socket) -> bool:
    """Whether the kernel is to spread connections (SO_REUSEPORT): the primary is left out of that."""
    if sock.family == socket.AF_UNIX:
        return False
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def raw_path(path: str | bytes | bytearray) -> bytes:
    """The name in the kernel's form."""
    return os.fsencode(path) if isinstance(path, str) else bytes(path)


def unix_path(address: Any) -> str | bytes | None:
    """The name of a unix socket, as in a message; None if it is not for the primary."""
    if not isinstance(address, (str, bytes, bytearray)):
        return None
    raw = os.fsencode(bytes(address) if isinstance(address, bytearray) else address)
    if not raw or len(raw) >= LONGEST_PATH:
        return None  # autobind, or an error
    if raw.startswith(b"\0"):
        return raw
    path = os.path.abspath(raw)
    if os.path.basename(os.path.dirname(path)).startswith(_PLUMBING):
        return None
    text = path.decode(errors="replace")
    return text if text.isprintable() and text.encode() == path else path


def _numeric(sock: socket.socket, host: str, port: int, rest: list[int]) -> list[Any]:
    """Resolve a host as CPython's `setipaddr` does, so that all workers ask for the same key."""
    flow, scope = [*rest, 0, 0][:2]
    is_v6 = _is_v6(sock)
    if host == "":
        host = "::" if is_v6 else "0.0.0.0"
    elif host == "<broadcast>" and not is_v6:
        host = "255.255.255.255"
    else:
        try:
            host = socket.inet_ntop(sock.family, socket.inet_pton(sock.family, host))
        except OSError:
            found: Any = socket.getaddrinfo(host, None, sock.family, sock.type)[0][4]
            host = str(found[0]).partition("%")[0]
            scope = scope or (found[3] if is_v6 else 0)
    return [host, port, flow, scope] if is_v6 else [host, port]


def new_file_mode() -> int:
    """The permissions of a socket file that this process would make now.

    They are read from /proc: umask(2) cannot be read without changing it, which other threads would see.
    """
    return 0o777 & ~int(status_of("self").get("Umask", "022"), 8)


def working_directory() -> bytes | None:
    """Where relative paths begin; None if the folder no longer exists, which absolute paths do not need."""
    try:
        return os.getcwdb()
    except FileNotFoundError:
        return None
