"""A worker's seat: its slot, and its row of the board."""

from __future__ import annotations

from everycore.primary.boards import Boards
from everycore.system.board import LoopTimes


class BoardSeat:
    """The seat of one worker: a `core.sticky.Seat`."""

    __slots__ = ("_boards", "_row", "_user", "slot")

    def __init__(self, slot: int, boards: Boards, user: int, row: int) -> None:
        self.slot = slot
        self._boards = boards
        self._user = user
        self._row = row

    @property
    def open(self) -> int:
        """The connections that the worker has now, by its own count."""
        return self._boards.open(self._user, self._row)

    @property
    def beat(self) -> int:
        """As `PrimaryBoard.beat`."""
        return self._boards.beat(self._user, self._row)

    @property
    def loop_times(self) -> LoopTimes | None:
        """As `PrimaryBoard.loop_times`."""
        return self._boards.loop_times(self._user, self._row)

    @property
    def requests(self) -> int:
        """As `PrimaryBoard.requests`."""
        return self._boards.requests(self._user, self._row)
