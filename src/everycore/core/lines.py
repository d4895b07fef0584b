"""Cuts a byte stream into lines as it comes. Each line of the control protocol is a JSON object."""

from __future__ import annotations

from everycore.core.control import MOST_REQUEST
from everycore.errors import ControlError


class LineBuffer:
    """Cuts what a client sends into lines."""

    def __init__(self, most: int = MOST_REQUEST) -> None:
        self._most = most
        self._data = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """More has come."""
        self._data += data

    def line(self) -> bytes | None:
        """The next whole line, without its end; None: there is none. Raises ControlError for a long one."""
        end = self._data.find(b"\n", self._searched)
        if (end if end >= 0 else len(self._data)) > self._most:
            raise ControlError("bad_request", f"a request is longer than {self._most} bytes")
        if end < 0:
            self._searched = len(self._data)
            return None
        found = bytes(self._data[:end])
        del self._data[: end + 1]
        self._searched = 0
        return found
