"""Listeners that a process has opened unseen by everycore: in C, or in a process of its own.

The kernel is asked (proc(5)) which sockets a process has open, and which of them listen. Invariant: nothing
is found if /proc is not mounted or the process belongs to another user.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from everycore.model import Address

_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")
#: The most descriptors, threads and processes of a worker that are examined.
MOST_LOOKED_AT: Final = 8192
#: State and flag of listening sockets (include/net/tcp_states.h, include/uapi/linux/net.h).
_LISTEN: Final = "0A"
_ACCEPTS: Final = 0x10000
#: The function of the kernel in which waitpid(2) waits.
_WAITS: Final = "do_wait"
#: The prefix of an IPv4 address on an IPv6 socket.
_MAPPED: Final = "::ffff:"
#: The prefix of the sockets of multiprocessing itself, as in `worker.intercept.addresses`.
_PLUMBING: Final = "/pymp-"


def listeners_of(pid: int, others: frozenset[int] = frozenset()) -> list[Address]:
    """The addresses on which the process itself listens. `others`: inodes of sockets to be left out."""
    inodes = sockets_of(pid) - others
    return [address for inode, address in _listening(pid) if inode in inodes] if inodes else []


def listeners_at(address: object) -> frozenset[int]:
    """The inodes of the sockets that may accept a connection to `address`, (host, port)."""
    return frozenset(inode for inode, found in _listening(os.getpid()) if is_at(found, address))


def is_at(found: Address, asked: object) -> bool:
    """Whether a client that connects to `asked`, (host, port), may reach the listener at `found`."""
    match asked:
        case (str(host), int(port), *_) if isinstance(found, tuple):
            return found[1] == port and found[0] in {host, "0.0.0.0", "::"}
    return False


def sockets_of(pid: int) -> frozenset[int]:
    """The inodes of all sockets that the process has open."""
    folder = f"/proc/{pid}/fd"
    found = set()
    with contextlib.suppress(OSError):
        for number in _some_of(folder):
            with contextlib.suppress(OSError):
                if match := _SOCKET.fullmatch(os.readlink(f"{folder}/{number}")):
                    found.add(int(match[1]))
    return frozenset(found)


def _some_of(folder: str) -> list[str]:
    """Some names in a folder of /proc: a process may have too many to examine all. Raises OSError."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in itertools.islice(entries, MOST_LOOKED_AT)]


def descendants_of(pid: int) -> list[int]:
    """Its children, their children, and so on; an empty list if the kernel lacks CONFIG_PROC_CHILDREN."""
    found: list[int] = []
    todo = [pid]
    while todo and len(found) < MOST_LOOKED_AT:
        children = _children_of(todo.pop())
        found += children
        todo += children
    return found


def waits_for_process(pid: int) -> bool:
    """Whether its main thread waits for a child to end; False if the kernel does not say."""
    try:
        with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
            return file.read() == _WAITS
    except (OSError, ValueError):
        return False


def command_line(pid: int) -> list[str]:
    """The words of its command line; an empty list if the process is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


def is_shareable(address: Address) -> bool:
    """Whether processes of this user may listen on a TCP address beside the current listener (SO_REUSEPORT).

    This binds a socket but does not listen: the kernel does not report the options of another process's
    socket.
    """
    if not isinstance(address, tuple):
        return False
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind(address[:2])
        except OSError:
            return False
    return True


def _children_of(pid: int) -> list[int]:
    children = []
    with contextlib.suppress(OSError):
        for thread in _some_of(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                children += [int(word) for word in file.read().split()]
    return children


def _listening(pid: int) -> Iterator[tuple[int, Address]]:
    """Inode and address of every listener in the process's network namespace."""
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}") as file:
            next(file, None)
            for line in file:
                words = line.split()
                if words[3] != _LISTEN:
                    break  # the table begins with the listening sockets
                yield int(words[9]), _address(words[1], family)
    for inode, name in unix_listeners(pid):
        if name.startswith("/") and _PLUMBING not in name:
            yield inode, name


def unix_listeners(pid: int) -> Iterator[tuple[int, str]]:
    """Inode and name of all unix listeners in the process's namespace; an abstract name begins with @."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/net/unix", errors="surrogateescape") as file:
        yield from listeners_in(file)


def listeners_in(table: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Inode and name of the listening sockets among the lines of /proc/net/unix.

    A name may contain anything, even a newline: a line that the kernel did not begin is skipped.
    """
    for line in table:
        words = line.split(maxsplit=7)
        try:
            flags, inode, name = int(words[3], 16), int(words[6]), words[7].rstrip("\n")
        except (IndexError, ValueError):  # the head of the table, or a socket without a name
            continue
        if flags & _ACCEPTS:
            yield inode, name


def _address(text: str, family: int) -> Address:
    """Parse `0100007F:1F90`, the kernel's form: words of 32 bits in the machine's own byte order."""
    host, port = text.split(":")
    words = [bytes.fromhex(host[start : start + 8]) for start in range(0, len(host), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return socket.inet_ntop(family, packed).removeprefix(_MAPPED), int(port, 16)
