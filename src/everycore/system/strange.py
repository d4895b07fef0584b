"""Closing descriptors that another process has sent, without waiting for anything that process has done.

close(2) of the last descriptor of an open file may wait. A connection with SO_LINGER waits until its peer has
read everything, whatever its mode. Descriptors that were sent over a unix socket and not read are closed with
that socket (unix(7)). Descriptors that do not fit into the ancillary buffer of a recvmsg(2) are closed too,
by the kernel, in the middle of that call. (Measured: each of the three waits for as long as SO_LINGER says.)
Invariant: nothing of that kind is left to the kernel here.

* SO_LINGER is switched off before a connection is closed.
* A socket over which descriptors come is read empty before it is closed, once no process can send to it.
* A unix socket that came may have such descriptors in its own queue, and other processes may read it. If its
  queue is not empty, a thread closes it, so that only that thread waits. The same holds for the end of a belt
  that a worker goes on reading.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterable
from typing import Final

from everycore.system.closing import attach
from everycore.system.descriptors import close_all
from everycore.system.wakeups import is_readable

#: The kernel's limit for one message (SCM_MAX_FD).
MOST_IN_A_MESSAGE: Final = 253
_INT: Final = array.array("i").itemsize
#: Ancillary room for all that one message may carry.
ROOM: Final = socket.CMSG_SPACE(MOST_IN_A_MESSAGE * _INT)
_CREDENTIALS: Final = socket.CMSG_SPACE(3 * _INT)
_RIGHTS: Final = (int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS))
#: A `struct linger` that is off.
_NO_LINGER: Final = bytes(8)
#: Classic BPF (linux/filter.h): return 0, the number of bytes to keep.
_DROP_ALL: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)
_CHUNK: Final = 64 * 1024
#: More messages than the buffer of a socket holds.
_MOST_MESSAGES: Final = 1 << 16
#: The most threads that close at a time. Each may wait for as long as an attacker likes.
MOST_THREADS: Final = 16


def descriptors_in(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that `recvmsg` returned beside the data. The caller closes them."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == _RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _INT])
    return fds.tolist()


def close_strange(fds: Iterable[int]) -> None:
    """Close descriptors that came from another process. One that is already closed is skipped."""
    for fd in fds:
        if _may_wait(fd):
            _aside.close(fd)
        else:
            close_all((fd,))


def close_emptied(sock: socket.socket) -> None:
    """Close this end of a unix socket, with the descriptors that a peer has sent and nothing has read."""
    with contextlib.suppress(OSError):
        # A packet without bytes reads like the end; but every packet has credentials.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, sock.type != socket.SOCK_STREAM)
        refuse_more(sock)
        for _ in range(_MOST_MESSAGES):
            data, ancillary, _, _ = sock.recvmsg(
                _CHUNK, ROOM + _CREDENTIALS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
            if not data and not ancillary:
                break
            close_strange(descriptors_in(ancillary))
    sock.close()


def close_shared(sock: socket.socket) -> None:
    """Close this descriptor of a unix socket that another process may go on reading undisturbed.

    What others send there from now on is dropped, if this process may say so (CAP_NET_ADMIN).
    """
    with contextlib.suppress(OSError):
        attach(sock, _DROP_ALL)
    fd = sock.detach()
    if fd >= 0 and is_readable(fd):
        _aside.close(fd)
    elif fd >= 0:
        os.close(fd)


def refuse_more(sock: socket.socket) -> None:
    """Let no process send to this unix socket any more (EPIPE). What lies there can still be read."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)


def _may_wait(fd: int) -> bool:
    """Whether close(2) of `fd` may wait, although SO_LINGER is now off."""
    try:
        sock = socket.socket(fileno=fd)
    except (OSError, ValueError):
        return False
    try:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return sock.family == socket.AF_UNIX and is_readable(fd)
    finally:
        sock.detach()


class _Aside:
    """Closes in threads of its own. While there is nothing to close, it has none."""

    _waiting: deque[int]
    _threads: int
    _lock: threading.Lock

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: the threads are the parent's, and the lock may be held for ever."""
        self._waiting = deque()
        self._threads = 0
        self._lock = threading.Lock()

    def close(self, fd: int) -> None:
        """Close `fd` soon."""
        self._waiting.append(fd)
        with self._lock:
            if self._threads >= MOST_THREADS:
                return  # one of them closes it when its own wait is over
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="everycore-close", daemon=True).start()
        except RuntimeError:  # no thread can be started
            self._work()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                fd = self._waiting.popleft()
            close_all((fd,))


_aside: Final = _Aside()
os.register_at_fork(after_in_child=_aside.forget)
