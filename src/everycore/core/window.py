"""How much one side may send before the other has taken what arrived: the flow window of the channel.

There is a set of counters at each end. Invariant: a side that keeps to `Outgoing` never breaks `Incoming`,
and can never be stuck, because less than a quarter of the window is taken and not reported. Pure.

Why a window: the simple way to slow a sender down is not to read its channel. That would also hold up
everything else in the channel: the `Disconnect` that a worker must hear, the `Drained` that the primary waits
for. So messages and requests are counted, in number, bytes and descriptors, and everything else passes them.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from everycore.errors import ProtocolError

#: Messages and requests that may lie untaken with the peer.
WINDOW: Final = 1024
#: The bytes of their bodies. One message may exceed this, or the largest could never be sent.
WINDOW_BYTES: Final = 4 << 20
#: Their descriptors. Until it is taken, each occupies one of the peer's descriptor numbers.
WINDOW_HANDLES: Final = 64


#: The number of messages and requests, of bytes and of descriptors taken since the last report.
Report: TypeAlias = tuple[int, int, int]


class Outgoing:
    """The sender's count of what lies untaken with the peer."""

    __slots__ = ("count", "handles", "size")

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.handles = 0

    def try_send(self, size: int, handles: int = 0) -> bool:
        """Whether a message of `size` bytes with `handles` descriptors may be sent now. If so, count it."""
        if self.count >= WINDOW or self.size >= WINDOW_BYTES:
            return False
        if handles:
            if self.handles + handles > WINDOW_HANDLES:
                return False
            self.handles += handles
        self.count += 1
        self.size += size
        return True

    def took(self, count: int, size: int, handles: int = 0) -> None:
        """The peer took so much. Raises ProtocolError if it was sent less, or if nothing was taken."""
        are_messages = 0 <= count <= self.count and 0 <= size <= self.size
        if not (are_messages and 0 <= handles <= self.handles and (count or handles)):
            what = f"{count} messages of {size} bytes and {handles} descriptors"
            raise ProtocolError(f"{what} were taken, {self.count} messages were sent")
        self.count -= count
        self.size -= size
        self.handles -= handles


class Incoming:
    """The receiver's count of what the peer sent, and of what was taken."""

    __slots__ = ("count", "handles", "size", "taken_count", "taken_handles", "taken_size")

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.handles = 0
        self.taken_count = 0
        self.taken_size = 0
        self.taken_handles = 0

    def arrived(self, size: int, handles: int = 0) -> None:
        """A message with `handles` descriptors arrived. Raises ProtocolError if the window is full."""
        if self.count >= WINDOW or self.size >= WINDOW_BYTES or self.handles + handles > WINDOW_HANDLES:
            raise _too_much()
        self.handles += handles
        self.count += 1
        self.size += size

    def passed(self, size: int) -> Report | None:
        """A message arrived and was taken at once. Does `arrived` and `taken` in one call."""
        if self.count >= WINDOW or self.size >= WINDOW_BYTES:
            raise _too_much()
        self.count += 1
        self.size += size
        self.taken_count += 1
        self.taken_size += size
        if self.taken_count < WINDOW // 4 and self.taken_size < WINDOW_BYTES // 4:
            return None
        return self._report()

    def taken(self, size: int) -> Report | None:
        """A message was taken. Returns the report if one is due, else None."""
        self.taken_count += 1
        self.taken_size += size
        if self.taken_count < WINDOW // 4 and self.taken_size < WINDOW_BYTES // 4:
            return None
        return self._report()

    def handle_taken(self) -> Report | None:
        """A descriptor was given to the program or closed, maybe before its message counts as taken."""
        self.taken_handles += 1
        return self._report() if self.taken_handles >= WINDOW_HANDLES // 4 else None

    def _report(self) -> Report:
        report = self.taken_count, self.taken_size, self.taken_handles
        self.count -= self.taken_count
        self.size -= self.taken_size
        self.handles -= self.taken_handles
        self.taken_count = self.taken_size = self.taken_handles = 0
        return report


def _too_much() -> ProtocolError:
    limits = f"{WINDOW} messages, {WINDOW_BYTES} bytes or {WINDOW_HANDLES} descriptors"
    return ProtocolError(f"more than {limits} were sent and not taken")
