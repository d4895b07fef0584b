"""The link: one request, one reply, blocking, for code that has no event loop.

Ask the primary from any thread. Invariant: a reply that comes too late is never taken for the answer to a
later request: each datagram begins with the request's number. No thread, no loop.
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
NUMBER: Final = wire.LINK_NUMBER


class Link:
    """The worker's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._number = 0

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
            self._number += 1
            self._send(message, fd)
            try:
                reply, fds = self._receive(deadline)
            except TimeoutError:
                self._send(wire.GiveUp(), None)  # behind the request, so that a late grant is not held
                raise
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
            # Another thread waits for an answer, or this very one, if a signal handler calls.
            self._send(order, None, number=0)
            return
        try:
            self._number += 1
            self._send(order, None)
            self._receive(deadline)
        except TimeoutError:
            return
        finally:
            self._lock.release()

    def settle(self, timeout: float) -> None:
        """Wait until the primary has heard what was said on belts; at once if a request is under way.

        For the end of a socket, which may come in a finalizer or in a signal handler.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._number += 1
            self._send(wire.Settle(), None)
            self._receive(time.monotonic() + timeout)
        except OSError:
            return  # it is gone, or stopped
        finally:
            self._lock.release()

    def _send(self, message: Any, fd: int | None, number: int | None = None) -> None:
        data = NUMBER.pack(self._number if number is None else number) + wire.encode(message)
        try:
            if fd is None:
                self._sock.send(data)
            else:
                socket.send_fds(self._sock, [data], [fd])
        except OSError as exc:
            raise ChannelClosed("the primary") from exc

    def _receive(self, deadline: float) -> tuple[Any, list[int]]:
        while True:
            self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                received = packets.receive(self._sock, flags=socket.MSG_CMSG_CLOEXEC)
            except TimeoutError:
                raise _no_answer() from None
            except OSError as exc:
                raise ChannelClosed("the primary") from exc
            if received is None:
                raise ChannelClosed("the primary")
            data, fds, is_truncated = received
            reply = wire.decode_link_reply(data[NUMBER.size :])
            if NUMBER.unpack_from(data)[0] != self._number:
                decline(fds)
            elif is_truncated:  # this process has no number left for what came with it
                close_all(fds)
                self._send(wire.GiveUp(), None)
                raise os_error(errno.EMFILE)
            else:
                return reply, fds

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
