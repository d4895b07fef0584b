"""The link: one request, one reply, blocking, for code that has no event loop.

Ask the primary from any thread. Invariant: a reply is taken for the answer to its own request and to no
other: each datagram begins with the request's number. No thread, no loop.

A signal handler or a finalizer may ask in the middle of a request of the very thread that it interrupts, and
may have interrupted one for good. So the lock is the thread's own, and each request takes its own reply,
whoever has read it.
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

#: Seconds to wait for a reply: the primary never blocks, so this is for one that is stopped.
DEADLINE: Final = 30.0
#: Seconds to wait until an order was heard: an event loop may stand still meanwhile.
PATIENCE: Final = 1.0
#: Seconds after which a request looks whether its reply is there already: recvmsg(2) goes on waiting when a
#: signal handler has read that.
LOOK: Final = 0.1
NUMBER: Final = wire.LINK_NUMBER


#: What a datagram held: the reply, its descriptors, and whether some of these are missing.
Received = tuple[Any, list[int], bool]


class Link:
    """The worker's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.RLock()
        self._number = 0
        #: The requests that wait, and what has come for them.
        self._awaited: dict[int, Received | None] = {}

    def request(
        self, message: Any, *, fd: int | None = None, timeout: float = DEADLINE
    ) -> tuple[Any, list[int]]:
        """Send `message`, and a descriptor with it; return the reply and its descriptors.

        Raises: OSError as the primary refused; TimeoutError; ChannelClosed if the primary is gone.
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
        """Send an order, which the primary only says `Done` to, and wait until it was heard.

        A primary that is stopped (SIGSTOP, a debugger) hears it when it goes on: that is not an error, and is
        not waited for. Raises: ChannelClosed if the primary is gone.
        """
        deadline = time.monotonic() + PATIENCE
        if not self._lock.acquire(timeout=PATIENCE):
            self._send(order, None, 0)  # another thread waits for an answer
            return
        try:
            self._exchange(order, None, deadline)
        except TimeoutError:
            return
        finally:
            self._lock.release()

    def settle(self, timeout: float) -> None:
        """Wait until the primary has heard what was said on belts; at once if another thread asks something.

        For the end of a socket, which may come in a finalizer or in a signal handler.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._exchange(wire.Settle(), None, time.monotonic() + timeout)
        except OSError:
            return  # it is gone, or stopped
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
            self._send(wire.GiveUp(), None, number)  # behind the request, so that a late grant is not held
            raise
        finally:
            late = self._awaited.pop(number)
            if late is not None:
                decline(late[1])
        reply, fds, is_truncated = received
        if is_truncated:  # this process has no number left for what came with it
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
        """Read one reply, if it comes soon, and keep it for the request that waits for it."""
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
        """Close it."""
        self._sock.close()


def _no_answer() -> TimeoutError:
    return TimeoutError("the primary did not answer on the link")


def decline(fds: list[int]) -> None:
    """Give back a listener that nobody waits for any more."""
    if fds:
        with socket.socket(fileno=os.dup(fds[0])) as sock:
            try:
                sock.send(wire.encode(wire.Close()), socket.MSG_DONTWAIT)
            except OSError:
                pass
        close_all(fds)
