"""The board: a shared page with a row of numbers for each worker.

On the board every process sees how loaded the others are, even while they are blocked, for the cost of a
memory store. Invariant: each field has one writer, which keeps the number itself and never reads it here.
Values are hints: never an index, never a divisor. Every worker can write anywhere on the board, so a reader
discards impossible values: a broken worker misleads others within bounds, and stops none of them. All workers
with one board run as the same user.

Facts: other processes see an aligned 8-byte store through `memoryview.cast("q")` whole. They do not see
`struct.pack_into` whole: it zeroes the target first (readers saw 0 in 3 to 17 % of reads, measured). The
memory file is sealed against shrinking and growing before the first worker gets it: otherwise a worker's
`ftruncate` would kill the primary by SIGBUS.
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os
import time
from typing import Final, NamedTuple

from everycore.system.descriptors import duplicate
from everycore.system.preemption import BusyTime

#: Fields of a row, as offsets in units of 8 bytes. A row is one cache line.
OPEN: Final = 0
ACCEPTED: Final = 1
SERVING: Final = 2
IDLE: Final = 3
BEAT: Final = 4
REQUESTS: Final = 5
BUSY: Final = 6
LATE: Final = 7
ROW: Final = 8
#: The number of rows. Row 0 is the primary's: it holds an upper bound of the rows in use.
CAPACITY: Final = 1024
SIZE: Final = CAPACITY * ROW * 8
_HIGH_WATER: Final = 0
#: The weight of the last connection in the running mean.
_WEIGHT: Final = 1 / 16
#: The most connections that a worker is believed to have open, and to have accepted. The first is more than
#: the limits on descriptors allow, the second more than a lifetime suffices for.
_MOST_OPEN: Final = 1 << 24
_MOST_ACCEPTED: Final = 1 << 62
_now: Final = time.monotonic
_MICRO: Final = 1e-6
#: The longest busy or late time of a loop that is believed, in microseconds: thirty years.
_MOST_TIME: Final = 10**15


class LoopTimes(NamedTuple):
    """How an event loop fares, in seconds since the worker began.

    busy: how long the loop was busy. late: the sum of the delays of its beats. beat: when the last beat came,
    by time.monotonic().
    """

    busy: float
    late: float
    beat: float


class Next(enum.Enum):
    """To which worker the next connection of a shared listener should go, judging by the board."""

    #: To this worker: no other one waits for events.
    ONLY_MINE = enum.auto()
    #: This worker or another one: no worker that waits for events holds fewer connections.
    MINE_TOO = enum.auto()
    #: To another worker first.
    ANOTHER = enum.auto()
    #: Another worker, since this one holds too many.
    NOT_MINE = enum.auto()


class Board:
    """A process's view of the board."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE)
        self._cells = memoryview(self._map).cast("q")

    def close(self) -> None:
        """Unmap the board."""
        self._cells.release()
        self._map.close()


class PrimaryBoard(Board):
    """The board of the primary, which allots the rows. Workers inherit the descriptor `fd`."""

    def __init__(self) -> None:
        fd = os.memfd_create("everycore-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Never the number of a standard stream that this process lacks: a worker would get the board as
            # that stream.
            self.fd = duplicate(fd)
        finally:
            os.close(fd)
        try:
            os.ftruncate(self.fd, SIZE)
            fcntl.fcntl(
                self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            )
            super().__init__(self.fd)
        except BaseException:
            os.close(self.fd)
            raise
        self._free = set(range(1, CAPACITY))
        self._high_water = 0

    def allot(self) -> int:
        """Allot the lowest free row, zeroed. Returns 0, the primary's own row, if no row is free."""
        if not self._free:
            return 0
        row = min(self._free)
        self._free.discard(row)
        self._clear(row)
        self._high_water = max(self._high_water, row + 1)
        self._cells[_HIGH_WATER] = self._high_water
        return row

    def release(self, row: int) -> None:
        """Free `row`: its worker has ended."""
        if row:
            self._clear(row)
            self._free.add(row)

    def accepted(self, row: int) -> int:
        """The number of connections that the worker of `row` has accepted by itself."""
        return self._read(row, ACCEPTED, _MOST_ACCEPTED)

    def open(self, row: int) -> int:
        """The number of open connections of the worker of `row` that its event loops accepted."""
        return self._read(row, OPEN, _MOST_OPEN)

    def _read(self, row: int, field: int, most: int) -> int:
        return min(max(self._cells[row * ROW + field], 0), most) if row else 0

    def beat(self, row: int) -> int:
        """A number that changes whenever the event loop of `row` turns; 0 if its turns are not counted."""
        return self._cells[row * ROW + BEAT] if row else 0

    def loop_times(self, row: int) -> LoopTimes | None:
        """How the event loop of `row` fares; None if its turns are not counted."""
        if not self.beat(row):
            return None
        busy, late, beat = (self._read(row, field, _MOST_TIME) * _MICRO for field in (BUSY, LATE, BEAT))
        return LoopTimes(busy, late, beat)

    def requests(self, row: int) -> int:
        """The number of requests that the application of `row` was given, where they are counted."""
        return self._read(row, REQUESTS, _MOST_ACCEPTED)

    def _clear(self, row: int) -> None:
        for field in range(ROW):
            self._cells[row * ROW + field] = 0

    def close(self) -> None:
        """Unmap the board and close the memory file."""
        super().close()
        fd, self.fd = self.fd, -1
        os.close(fd)


class WorkerBoard(Board):
    """The board of a worker, which writes its own row and reads the others."""

    def __init__(self, fd: int, row: int) -> None:
        super().__init__(fd)
        os.close(fd)
        self._at = row * ROW if row else None
        self._serves = self._open = self._accepted = self._requests = self._beat = 0
        self._loop_busy = self._loop_late = 0.0
        #: Sums up the seconds for which the loop was busy since the last connection. `cost`: the average for
        #: a connection.
        self._turns = BusyTime(_now())
        self.cost = 0.0
        #: Whether `idle` is called in each turn of the loop at present.
        self._is_measured = True

    def close(self) -> None:
        """Unmap the board. Later notes, by a loop in a forked child, are dropped."""
        self._at = None
        super().close()

    def opened(self) -> None:
        """Note that a connection was accepted."""
        if self._at is not None:
            turns = self._turns
            self.cost += (turns.seconds - self.cost) * _WEIGHT
            turns.seconds = 0.0
            self._open += 1
            self._accepted += 1
            self._cells[self._at + OPEN] = self._open
            self._cells[self._at + ACCEPTED] = self._accepted

    def accepted(self, change: int, margin: float, slack: int = 0) -> Next:
        """The loop itself accepted a connection: `opened` and `next` in one. HOT: called for each connection.

        change: how many more connections are open than this worker has noted. slack: the next connection may
        be for this worker even if others hold this many fewer.
        """
        at_mine = self._at
        if at_mine is None:
            return Next.ANOTHER
        if self._is_measured:
            turns = self._turns
            self.cost += (turns.seconds - self.cost) * _WEIGHT
            turns.seconds = 0.0
        cells = self._cells
        self._accepted = accepted = self._accepted + 1
        self._open = mine = self._open + change
        cells[at_mine + OPEN] = mine
        cells[at_mine + ACCEPTED] = accepted
        enough = mine - slack
        for at in range(ROW, min(cells[_HIGH_WATER], CAPACITY) * ROW, ROW):
            # Most calls do not get past the first other worker: it is busy or holds as many.
            if at != at_mine and cells[at + IDLE] and cells[at + OPEN] < enough and cells[at + SERVING]:
                return self.next(margin, slack)
        return Next.MINE_TOO

    def closed(self, count: int = 1) -> None:
        """Note that `count` accepted connections were closed."""
        if self._at is not None:
            self._open -= count
            self._cells[self._at + OPEN] = self._open

    @property
    def held(self) -> int:
        """How many connections this worker holds, as noted on the board."""
        return self._open

    def serving(self, serves: bool) -> None:
        """Note that this worker takes part in one more shared listener, or in one fewer."""
        self._serves = max(self._serves + (1 if serves else -1), 0)
        if self._at is not None:
            self._cells[self._at + SERVING] = self._serves

    def idle(self, is_idle: bool, since: float | None = None) -> None:
        """Note that the loop is about to wait, or that it woke at `since` (time.monotonic(); None: now)."""
        if self._at is None:
            return
        self._cells[self._at + IDLE] = is_idle
        if is_idle:
            self._turns.end(_now())
        else:
            self._turns.began = _now() if since is None else since

    def measure(self, measures: bool) -> None:
        """Note whether `idle` is called in each turn from now on. If not, the loop counts as waiting."""
        self._is_measured = measures
        self._turns.began = _now()
        if self._at is not None and not measures:
            self._cells[self._at + IDLE] = True

    def requested(self) -> None:
        """Note that the application was given a request."""
        if self._at is not None:
            self._requests += 1
            self._cells[self._at + REQUESTS] = self._requests

    def beat(self) -> None:
        """Note that the event loop turns."""
        if self._at is not None:
            self._beat = max(self._beat + 1, int(_now() / _MICRO))
            self._cells[self._at + BEAT] = self._beat

    def fared(self, busy: float, late: float) -> None:
        """Add to how long the event loop was busy, and how late it was for this beat, in seconds."""
        if self._at is not None:
            self._loop_busy += busy
            self._loop_late += late
            self._cells[self._at + BUSY] = int(self._loop_busy / _MICRO)
            self._cells[self._at + LATE] = int(self._loop_late / _MICRO)

    def end_beats(self) -> None:
        """Note that the turns of the loop are no longer counted."""
        if self._at is not None:
            self._cells[self._at + BEAT] = 0

    def next(self, margin: float, slack: int = 0) -> Next:
        """To which worker the next connection should go. HOT: looks at each row, for each connection.

        This worker holds too many if it holds over `margin` more than the serving workers do on average, and
        a worker that waits for events holds fewer than that average and can take the connection. slack: the
        next connection may be for this worker even if others hold this many fewer.
        """
        if self._at is None:
            return Next.ANOTHER
        cells, at_mine, mine, total, count, fewest = self._cells, self._at, self._open, 0, 0, -1
        for at in range(ROW, min(cells[_HIGH_WATER], CAPACITY) * ROW, ROW):
            if cells[at + SERVING] and 0 <= (held := cells[at + OPEN]) <= _MOST_OPEN:
                total += held
                count += 1
                if (fewest < 0 or held < fewest) and cells[at + IDLE] and at != at_mine:
                    fewest = held
        if fewest < 0:
            return Next.ONLY_MINE
        if fewest + slack >= mine:
            return Next.MINE_TOO
        mean = total / count
        return Next.NOT_MINE if mine > mean + margin + slack and fewest < mean else Next.ANOTHER

    def should_yield(self, margin: float) -> bool:
        """Whether this worker holds too many."""
        return self.next(margin) is Next.NOT_MINE
