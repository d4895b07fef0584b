"""How much one side may send before the other has taken what came: the flow window of the channel.

Two counters, one for each end. Invariant: a side that keeps to `Outgoing` never breaks `Incoming`, and can
never be stuck: what was taken and not reported is below a quarter of the window. Pure.

Why a window: the simple way to slow a sender down, not reading its channel, would also hold up everything
else in there: the `Disconnect` a worker must hear, the `Drained` the primary waits for. So messages and
requests are counted, in number and in bytes, and everything else passes them by.
"""

from __future__ import annotations

from typing import Final

from everycore.errors import ProtocolError

#: Messages and requests that may lie with the peer, not yet taken ...
WINDOW: Final = 1024
#: ... and their bytes. One message may go beyond, or the largest could never be sent.
WINDOW_BYTES: Final = 4 << 20


class Outgoing:
    """What lies with the peer, as the sender knows."""

    __slots__ = ("count", "size")

    def __init__(self) -> None:
        self.count = 0
        self.size = 0

    def try_send(self, size: int) -> bool:
        """Whether a message of `size` bytes may go now; if so it is counted."""
        if self.count >= WINDOW or self.size >= WINDOW_BYTES:
            return False
        self.count += 1
        self.size += size
        return True

    def took(self, count: int, size: int) -> None:
        """The peer took so much. ProtocolError if that is more than it was given."""
        if not (0 < count <= self.count and 0 <= size <= self.size):
            raise ProtocolError(f"{count} messages of {size} bytes were taken, {self.count} were sent")
        self.count -= count
        self.size -= size


class Incoming:
    """What the peer sent, and what of it was taken."""

    __slots__ = ("count", "size", "taken_count", "taken_size")

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.taken_count = 0
        self.taken_size = 0

    def arrived(self, size: int) -> None:
        """A message came. ProtocolError if it may not have."""
        if self.count >= WINDOW or self.size >= WINDOW_BYTES:
            raise _too_much()
        self.count += 1
        self.size += size

    def passed(self, size: int) -> tuple[int, int] | None:
        """A message came and was taken at once: `arrived` and `taken`, for the price of one call."""
        if self.count >= WINDOW or self.size >= WINDOW_BYTES:
            raise _too_much()
        self.count += 1
        self.size += size
        self.taken_count += 1
        self.taken_size += size
        if self.taken_count < WINDOW // 4 and self.taken_size < WINDOW_BYTES // 4:
            return None
        return self._report()

    def taken(self, size: int) -> tuple[int, int] | None:
        """A message was taken; returns (count, bytes) when it is time to report."""
        self.taken_count += 1
        self.taken_size += size
        if self.taken_count < WINDOW // 4 and self.taken_size < WINDOW_BYTES // 4:
            return None
        return self._report()

    def _report(self) -> tuple[int, int]:
        report = self.taken_count, self.taken_size
        self.count -= self.taken_count
        self.size -= self.taken_size
        self.taken_count = self.taken_size = 0
        return report


def _too_much() -> ProtocolError:
    return ProtocolError(f"more than {WINDOW} messages or {WINDOW_BYTES} bytes were sent and not taken")
