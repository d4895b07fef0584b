"""The kernel's part in making workers by fork: adoption, messages with their sender, and the fork itself.

A mold forks a middle process, which forks the worker and ends. The kernel gives the orphan to the nearest
ancestor that is a *subreaper* (prctl(2), PR_SET_CHILD_SUBREAPER). That is the primary, which is a subreaper
only while it waits for a worker. So pidfd, waitid(2) and PR_SET_PDEATHSIG work as for a child that the
primary has started, and orphans of a worker's own go to process 1 as usual. Invariant: a worker runs nothing
of its program before it is the primary's child.

Facts (kernel/exit.c): when a process ends, its children get their new parent before its pidfd becomes
readable, so a process that polls the pidfd finds the new parent; end-of-file of a pipe comes earlier. A fork
by clone(2) with CLONE_PARENT would need no middle process, but skips pthread_atfork(3): OpenBLAS hangs in
such a child.

A worker that is killed on the way is reaped: by the middle process until the worker has spoken, and after
that by the primary, which then knows of it. A primary inside another program must reap only processes that it
knows.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Final

from everycore.system.descriptors import open_numbers, socket_file
from everycore.system.strange import ROOM, descriptors_in

_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37
_UCRED: Final = struct.Struct("3i")
_CREDENTIALS: Final = (int(socket.SOL_SOCKET), int(socket.SCM_CREDENTIALS))
_INT: Final = array.array("i").itemsize
#: The exit status of a worker that is not the child of the primary that it was made for: EX_TEMPFAIL of
#: sysexits.h.
_NOT_ADOPTED: Final = 75
#: The middle process ends with this status if the worker was killed before it had spoken.
_KILLED: Final = 76
#: The middle process ends with this status plus the errno if its fork fails.
_FORK_FAILED: Final = 128

#: The bytes of a message, its descriptors, and the pid and uid of its sender.
SignedPacket = tuple[bytes, list[int], int, int]


def adopt_orphans(*, on: bool) -> bool:
    """Become a subreaper, or stop being one. Returns whether this process was one before.

    Raises OSError if the kernel or a sandbox refuses, and ImportError without ctypes.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int()
    if libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if bool(before.value) != on and libc.prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return bool(before.value)


def make_signed_pair() -> tuple[socket.socket, socket.socket]:
    """Return the primary's end, on which each message names its sender, and the mold's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours.setblocking(False)
    return ours, theirs


def send_with(sock: socket.socket, message: bytes, fds: Sequence[int]) -> None:
    """Send one message. Raises OSError: EAGAIN (full), EMSGSIZE, EPIPE (no reader), ETOOMANYREFS."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sock.sendmsg((message,), (rights,) if fds else ())


def receive_signed(sock: socket.socket, longest: int) -> SignedPacket | None:
    """Return the next message; None at end-of-file. Raises BlockingIOError if there is none yet."""
    data, ancillary, _, _ = sock.recvmsg(
        longest, socket.CMSG_SPACE(_UCRED.size) + ROOM, socket.MSG_CMSG_CLOEXEC
    )
    fds = descriptors_in(ancillary)
    if not data and not fds:
        return None
    pid = uid = -1
    for level, kind, body in ancillary:
        if (level, kind) == _CREDENTIALS:
            pid, uid, _ = _UCRED.unpack(body[: _UCRED.size])
    return data, fds, pid, uid


def receive_with(sock: socket.socket, longest: int, most: int) -> tuple[bytes, list[int]] | None:
    """Wait for the next message. Returns it with up to `most` descriptors; None at end-of-file."""
    data, ancillary, _, _ = sock.recvmsg(longest, socket.CMSG_SPACE(most * _INT), socket.MSG_CMSG_CLOEXEC)
    fds = descriptors_in(ancillary)
    return None if not data and not fds else (data, fds)


def is_child(pid: int) -> bool:
    """Whether that process is a child of this one, ended or not. This does not reap it."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, OverflowError):
        return False
    return True


def fork_for(primary: int, say_there: Callable[[], object]) -> str | None:
    """Fork a worker that becomes a child of `primary`. Returns None in the worker.

    The worker has then called `say_there` twice: before it was a child of `primary`, and after. In the mold
    this returns why there is no worker, or an empty string if it was made. Signals that are blocked here stay
    blocked in the worker.
    """
    done, held = os.pipe2(os.O_CLOEXEC)
    try:
        pid = _fork()
    except OSError as error:
        os.close(done)
        os.close(held)
        return f"the mold cannot fork: {error.strerror}"
    if pid:
        return _see_it_made(pid, done, held)
    try:
        os.close(done)
        _orphan(primary, say_there)
        say_there()
    except BaseException:  # also if the primary is gone, or no longer wants the worker
        os._exit(_NOT_ADOPTED)
    os.close(held)
    return None


def _orphan(primary: int, say_there: Callable[[], object]) -> None:
    """In the middle process: go on in its child, once it has spoken and is a child of `primary`."""
    middle = os.pidfd_open(os.getpid())
    has_spoken, speaks = os.pipe2(os.O_CLOEXEC)
    try:
        pid = _fork()
    except OSError as error:
        os._exit(_FORK_FAILED + min(error.errno or 0, 127))
    if pid:
        os.close(speaks)
        if os.read(has_spoken, 1):
            os._exit(0)
        os.waitpid(pid, 0)
        os._exit(_KILLED)
    os.close(has_spoken)
    say_there()
    os.write(speaks, b".")
    os.close(speaks)
    poll = select.poll()
    poll.register(middle, select.POLLIN)
    poll.poll()
    os.close(middle)
    if os.getppid() != primary:
        os._exit(_NOT_ADOPTED)


def _see_it_made(middle: int, done: int, held: int) -> str:
    """Wait until the worker has reported, or is gone. Either closes the pipe."""
    os.close(held)
    _, status = os.waitpid(middle, 0)
    code = os.waitstatus_to_exitcode(status)
    os.read(done, 1)
    os.close(done)
    if code in (0, _KILLED):
        return ""
    if code > _FORK_FAILED:
        return f"the mold cannot fork: {os.strerror(code - _FORK_FAILED)}"
    return f"it ended while it was being made: {f'status {code}' if code > 0 else signal.Signals(-code).name}"


def _fork() -> int:
    if sys.version_info < (3, 12):
        return os.fork()
    with warnings.catch_warnings():  # about threads: the caller has checked and reported them
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def lone_after_fork() -> list[tuple[int, str]]:
    """Fork a child that ends at once. Returns the threads that this process still has, without the main one.

    Each is its number and its name in the kernel. A library that is prepared for forks (OpenBLAS) ends its
    own threads before one.
    """
    pid = _fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    found = []
    for name in os.listdir("/proc/self/task"):
        if int(name) != os.getpid():
            try:
                with open(f"/proc/self/task/{name}/comm", encoding="utf-8", errors="replace") as file:
                    found.append((int(name), file.read().strip()))
            except OSError:  # the thread has ended meanwhile
                continue
    return found


def connected_peers(known: Sequence[int]) -> list[str]:
    """Describe, in words, what this process is connected to and where it listens.

    Descriptors in `known` are left out.
    """
    found = []
    for fd in sorted(open_numbers()):
        if fd in known or socket_file(fd) is None:
            continue
        with socket.socket(fileno=os.dup(fd)) as sock:
            try:
                listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                name = sock.getsockname() if listens else sock.getpeername()
            except OSError:
                continue
        what = "the listener on" if listens else "the connection to"
        if isinstance(name, tuple):
            found.append(f"{what} {name[0]} port {name[1]}")
        elif name:
            found.append(f"{what} {os.fsdecode(name)}")
    return found


def place_descriptors(received: Sequence[int], targets: Sequence[int], fixed: int) -> list[int]:
    """Move the descriptors behind the first `fixed` to the numbers `targets`. Returns the first ones, moved.

    A number in `targets` that is open is closed by this. A program that is executed inherits the targets.
    """
    least = max(targets, default=0) + 1
    moved = [_moved(fd, least) for fd in received]
    for fd, target in zip(moved[fixed:], targets, strict=True):
        os.dup2(fd, target, inheritable=True)
        os.close(fd)
    return moved[:fixed]


def _moved(fd: int, least: int) -> int:
    number = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
    os.close(fd)
    return number
