"""What a service manager is told: NOTIFY_SOCKET, a datagram of lines NAME=VALUE (sd_notify(3)).

Invariant: never blocks and never raises; what the other end does not take now is sent with what is said next.
The variables are taken out of this process's environment: they are its own, and not its workers'.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Final

SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG: Final = "WATCHDOG_USEC"
WATCHDOG_PROCESS: Final = "WATCHDOG_PID"
#: Messages that wait for a manager which takes none.
_MOST_UNSENT: Final = 16


class Notifier:
    """Speaks to the socket of that name.

    watchdog: the manager wants to hear from us within so many seconds each; 0: it does not.
    """

    def __init__(self, address: str, watchdog: float = 0.0) -> None:
        self.watchdog = watchdog
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._unsent: list[str] = []
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )

    def tell(self, *lines: str) -> bool:
        """Say these lines in one message, behind what was not heard before. False: nobody takes it now."""
        self._unsent = [*self._unsent, "\n".join(lines)][-_MOST_UNSENT:]
        while self._unsent:
            if not self._send(self._unsent[0]):
                return False
            del self._unsent[0]
        return True

    def _send(self, message: str) -> bool:
        try:
            self._socket.sendto(
                message.encode("utf-8", "backslashreplace"), socket.MSG_NOSIGNAL, self._address
            )
        except BlockingIOError:
            return False
        except OSError:  # nobody is there any more, who would hear it later
            return True
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def notifier(environ: MutableMapping[str, str], pid: int) -> Notifier | None:
    """The notifier of process `pid`, by its environment; None where no manager asks, or by no unix socket."""
    address, watchdog = environ.pop(SOCKET, ""), environ.pop(WATCHDOG, "")
    process = environ.pop(WATCHDOG_PROCESS, "")
    if not address.startswith(("/", "@")) or len(address) < 2:
        return None
    is_asked = watchdog.isascii() and watchdog.isdigit() and process in ("", str(pid))
    with contextlib.suppress(OSError):  # no descriptor is left
        return Notifier(os.fspath(address), int(watchdog) / 1e6 if is_asked else 0.0)
    return None
