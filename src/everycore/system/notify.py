"""What a service manager is told: NOTIFY_SOCKET, a datagram of lines NAME=VALUE (sd_notify(3)).

Invariant: never blocks and never raises; what the other end does not take now is sent with what is said next.
A descriptor that goes with a message is duplicated at the call. The variables are taken out of this process's
environment: they are its own, and not its workers'.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Final

from everycore.system.descriptors import close_all, duplicate

SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG: Final = "WATCHDOG_USEC"
WATCHDOG_PROCESS: Final = "WATCHDOG_PID"
STORE: Final = "FDSTORE"
#: Messages that wait for a manager which takes none.
_MOST_UNSENT: Final = 16
#: The most descriptors that systemd's store is said to have room for.
_MOST_STORED: Final = 9999


class Notifier:
    """Speaks to the socket of that name.

    watchdog: the manager wants to hear from us within so many seconds each; 0: it does not.
    room: so many descriptors it keeps for the next process of the service (`FileDescriptorStoreMax=`).
    """

    def __init__(self, address: str, watchdog: float = 0.0, room: int = 0) -> None:
        self.watchdog = watchdog
        self.room = room
        self._address = "\0" + address[1:] if address.startswith("@") else address
        #: Messages, each with a descriptor or none.
        self._unsent: list[tuple[str, int | None]] = []
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )

    def tell(self, *lines: str, fd: int | None = None) -> bool:
        """Say these lines in one message, behind what was not heard before. False: nobody takes it now.

        fd: a descriptor that goes with it. Raises OSError if that can't be duplicated.
        """
        self._unsent.append(("\n".join(lines), None if fd is None else duplicate(fd)))
        self._drop_oldest()
        while self._unsent:
            if not self._send(*self._unsent[0]):
                return False
            close_all(fd for _, fd in self._unsent[:1] if fd is not None)
            del self._unsent[0]
        return True

    def _drop_oldest(self) -> None:
        """Of too many that wait: words only, for a descriptor is sent once."""
        words = [message for message in self._unsent if message[1] is None]
        for message in words[:-_MOST_UNSENT]:
            self._unsent.remove(message)

    def _send(self, message: str, fd: int | None) -> bool:
        with_it = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        data = message.encode("utf-8", "backslashreplace")
        try:
            self._socket.sendmsg([data], with_it, socket.MSG_NOSIGNAL, self._address)
        except BlockingIOError:
            return False
        except OSError:  # nobody is there any more, who would hear it later
            return True
        return True

    def close(self) -> None:
        """Close the socket. What was not heard is not said any more."""
        close_all(fd for _, fd in self._unsent if fd is not None)
        self._unsent.clear()
        self._socket.close()


def notifier(environ: MutableMapping[str, str], pid: int) -> Notifier | None:
    """The notifier of process `pid`, by its environment; None where no manager asks, or by no unix socket."""
    address, watchdog = environ.pop(SOCKET, ""), environ.pop(WATCHDOG, "")
    process, room = environ.pop(WATCHDOG_PROCESS, ""), environ.pop(STORE, "")
    if not address.startswith(("/", "@")) or len(address) < 2:
        return None
    is_asked = _is_number(watchdog) and process in ("", str(pid))
    with contextlib.suppress(OSError):  # no descriptor is left
        return Notifier(
            os.fspath(address),
            int(watchdog) / 1e6 if is_asked else 0.0,
            min(int(room), _MOST_STORED) if _is_number(room) else 0,
        )
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
