"""Keeping new clients from a TCP listener until the handshakes under way have ended.

After that no client is on its way to the listener, and it can be closed: see `system.closing`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from everycore.aio.deadline import Deadline
from everycore.system import closing
from everycore.system.listeners import BoundSocket

#: Seconds after which a handshake has ended, on loopback and elsewhere. Handshakes with SYN cookies are not
#: counted.
LEAST: Final = 0.005
LEAST_ELSEWHERE: Final = 0.1
#: Seconds after which a client sends its SYN again: handshakes that were under way have ended by then.
MOST: Final = 1.0


class Barring:
    """Calls `then` when no client is on its way to `listener`, which is barred."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: BoundSocket, then: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._then = then
        self._ends_by = loop.time() + MOST
        #: Whether the last check found no handshake.
        self._was_clear = False
        self._looking = Deadline(loop, self._look)
        self._looking.set_in(LEAST if _is_loopback(listener) else LEAST_ELSEWHERE)

    def cancel(self) -> None:
        """Do not call `then`."""
        self._looking.set(None)

    def _look(self) -> None:
        is_clear = _count(self._listener.sock) == 0
        if (is_clear and self._was_clear) or self._loop.time() >= self._ends_by:
            self._then()
            return
        self._was_clear = is_clear
        self._looking.set_in(LEAST)


def _count(sock: socket.socket) -> int:
    try:
        return closing.count_handshakes(sock)
    except OSError:  # this kernel has no sock_diag: the least time must do
        return 0


def _is_loopback(listener: BoundSocket) -> bool:
    host = str(listener.real[0])
    return host.startswith("127.") or host == "::1"
