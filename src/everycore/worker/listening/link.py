"""The link: one request, one reply, blocking, for code that has no event loop.

Any thread may ask the primary. Invariant: a reply is matched to its own request and to no other, because each
datagram begins with the request's number. The link needs neither a thread nor a loop of its own.

A signal handler or a finalizer may ask while the thread that it interrupts is in the middle of a request, and
that request may never resume. So the lock is reentrant, and each request takes its own reply, no matter which
call has read it.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from typing import Any, Final

from everycore.core import wire
from everycore.errors import ChannelClosed
from everycore.kernel import os_error
from everycore.system import packets
from everycore.system.descriptors import close_all

#: How long to wait for a reply, in seconds. The primary never blocks, so only a stopped one takes this long.
DEADLINE: Final = 30.0
#: How long to wait until the primary has read an order, in seconds. An event loop may be blocked meanwhile.
PATIENCE: Final = 1.0
#: How often a waiting request checks whether its reply was read already, in seconds: recvmsg(2) goes on
#: waiting if a signal handler has read it.
LOOK: Final = 0.1
NUMBER: Final = wire.LINK_NUMBER


#: The content of a datagram: the reply, its descriptors, and whether some of them are missing.
Received = tuple[Any, list[int], bool]


class Link:
    """The worker's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.RLock()
        self._number = 0
        #: The waiting requests by number, each with its reply once that has come.
        self._awaited: dict[int, Received | None] = {}

    def request(
        self, message: Any, *, fd: int | None = None, timeout: float = DEADLINE
    ) -> tuple[Any, list[int]]:
        """Send `message`, optionally with a descriptor. Returns the reply and its descriptors.

        Raises: the primary's refusal as OSError; TimeoutError; ChannelClosed if the primary is gone.
        """
        deadline = time.monotonic() + timeout
        if not self._lock.acquire(timeout=timeout):
            raise _no_answer()
        try:
            reply, fds = self._exchange(message, fd, deadline)
        finally:
            self._lock.release()
        if isinstance(reply, wire.Refused):
            raise OSError(reply.errno, reply.text)
        return reply, fds

    def tell(self, order: Any) -> None:
        """Send an order, which the primary answers with `Done` alone, and wait for that answer.

        A stopped primary (SIGSTOP, a debugger) reads the order when it resumes. That is not an error, and
        this method does not wait for it. Raises: ChannelClosed if the primary is gone.
        """
        deadline = time.monotonic() + PATIENCE
        if not self._lock.acquire(timeout=PATIENCE):
            self._send(order, None, 0)  # another thread is waiting for its reply
            return
        try:
            self._exchange(order, None, deadline)
        except TimeoutError:
            return
        finally:
            self._lock.release()

    def settle(self, timeout: float) -> None:
        """Wait until the primary has read this worker's belts; at once if another thread uses the link.

        The end of a socket calls this, which may come in a finalizer or in a signal handler.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._exchange(wire.Settle(), None, time.monotonic() + timeout)
        except OSError:
            return  # the primary is gone or stopped
        finally:
            self._lock.release()

    def _exchange(self, message: Any, fd: int | None, deadline: float) -> tuple[Any, list[int]]:
        self._number = number = self._number + 1
        self._awaited[number] = None
        try:
            self._send(message, fd, number)
            while (received := self._awaited[number]) is None:
                self._read(deadline)
            self._awaited[number] = None
        except TimeoutError:
            self._send(wire.GiveUp(), None, number)  # it follows the request, so a late grant is released
            raise
        finally:
            late = self._awaited.pop(number)
            if late is not None:
                decline(late[1])
        reply, fds, is_truncated = received
        if is_truncated:  # this process had no free descriptor for what came with the reply
            close_all(fds)
            self._send(wire.GiveUp(), None, number)
            raise os_error(errno.EMFILE)
        return reply, fds

    def _send(self, message: Any, fd: int | None, number: int) -> None:
        data = NUMBER.pack(number) + wire.encode(message)
        try:
            if fd is None:
                self._sock.send(data)
            else:
                socket.send_fds(self._sock, [data], [fd])
        except OSError as exc:
            raise ChannelClosed("the primary") from exc

    def _read(self, deadline: float) -> None:
        """Wait for one reply, at most `LOOK` seconds, and keep it for the request that it answers."""
        left = deadline - time.monotonic()
        self._sock.settimeout(max(min(left, LOOK), 0.001))
        try:
            received = packets.receive(self._sock, flags=socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            if left > LOOK:
                return
            raise _no_answer() from None
        except OSError as exc:
            raise ChannelClosed("the primary") from exc
        if received is None:
            raise ChannelClosed("the primary")
        data, fds, is_truncated = received
        (number,) = NUMBER.unpack_from(data)
        if number in self._awaited:
            self._awaited[number] = wire.decode_link_reply(data[NUMBER.size :]), fds, is_truncated
        else:
            decline(fds)

    def close(self) -> None:
        """Close the worker's end."""
        self._sock.close()


def _no_answer() -> TimeoutError:
    return TimeoutError("the primary did not answer on the link")


def decline(fds: list[int]) -> None:
    """Give back a listener that no request waits for any more."""
    if fds:
        with socket.socket(fileno=os.dup(fds[0])) as sock:
            try:
                sock.send(wire.encode(wire.Close()), socket.MSG_DONTWAIT)
            except OSError:
                pass
        close_all(fds)
