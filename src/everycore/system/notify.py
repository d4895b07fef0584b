"""What a service manager is told: NOTIFY_SOCKET, a datagram of lines NAME=VALUE (sd_notify(3)).

Invariant: nothing here blocks or raises. A message that the other end does not take now is sent with the next
one. A descriptor that goes with a message is duplicated at the call. The variables are removed from this
process's environment: they are meant for it, not for its workers.
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
#: The number of messages that may wait for a manager which takes none.
_MOST_UNSENT: Final = 16
#: The most descriptors that systemd's store is believed to have room for.
_MOST_STORED: Final = 9999


class Notifier:
    """Speaks to the socket at that address.

    watchdog: the manager expects a message at least every so many seconds; 0 if it expects none. room: how
    many descriptors the manager keeps for the service's next process (`FileDescriptorStoreMax=`).
    """

    def __init__(self, address: str, watchdog: float = 0.0, room: int = 0) -> None:
        self.watchdog = watchdog
        self.room = room
        self._address = "\0" + address[1:] if address.startswith("@") else address
        #: The messages that wait, each with its descriptor or None.
        self._unsent: list[tuple[str, int | None]] = []
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )

    def tell(self, *lines: str, fd: int | None = None) -> bool:
        """Send these lines as one message, after those that still wait. Returns False if they must wait.

        fd: a descriptor to go with the message. Raises OSError if it cannot be duplicated.
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
        """Drop the oldest messages if too many wait. One with a descriptor stays: it is sent only once."""
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
        except OSError:  # no process is there to receive it later either
            return True
        return True

    def close(self) -> None:
        """Close the socket. Messages that wait are dropped."""
        close_all(fd for _, fd in self._unsent if fd is not None)
        self._unsent.clear()
        self._socket.close()


def notifier(environ: MutableMapping[str, str], pid: int) -> Notifier | None:
    """The notifier of process `pid`, from its environment; None without a manager or a unix socket."""
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
