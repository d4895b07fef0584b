"""Where a worker sits: its slot, and its row of the board."""

from __future__ import annotations

from everycore.system.board import PrimaryBoard


class BoardSeat:
    """The seat of one worker: a `core.sticky.Seat`."""

    __slots__ = ("_board", "_row", "slot")

    def __init__(self, slot: int, board: PrimaryBoard, row: int) -> None:
        self.slot = slot
        self._board = board
        self._row = row

    @property
    def open(self) -> int:
        """Connections that the worker has now, as it says itself."""
        return self._board.open(self._row)
