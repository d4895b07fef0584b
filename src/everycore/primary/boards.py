"""The boards of one cluster: one for the workers of each user, since they can write anywhere on it.

Invariant: a board exists from the first worker of its user until the cluster ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from everycore.aio.steps import take_all
from everycore.system.board import LoopTimes, PrimaryBoard


class Boards:
    """A board for each user: this process's own from the start, the others on first use."""

    def __init__(self) -> None:
        self._by_user = {os.geteuid(): PrimaryBoard()}

    def fd_of(self, user: int) -> int:
        """The memory file that the workers of that uid inherit. Raises OSError if it cannot be made."""
        return self._of(user).fd

    def _of(self, user: int) -> PrimaryBoard:
        if user not in self._by_user:
            self._by_user[user] = PrimaryBoard()
        return self._by_user[user]

    def allot(self, user: int) -> int:
        """Allot a row to a worker of `user`. Returns 0 if there is none."""
        try:
            return self._of(user).allot()
        except OSError:  # `fd_of` raises it again, and there it ends the worker
            return 0

    def release(self, user: int, row: int) -> None:
        """Free `row`: its worker is gone."""
        if row:
            self._by_user[user].release(row)

    def open(self, user: int, row: int) -> int:
        """As `PrimaryBoard.open`."""
        return self._by_user[user].open(row) if row else 0

    def accepted(self, user: int, row: int) -> int:
        """As `PrimaryBoard.accepted`."""
        return self._by_user[user].accepted(row) if row else 0

    def beat(self, user: int, row: int) -> int:
        """As `PrimaryBoard.beat`."""
        return self._by_user[user].beat(row) if row else 0

    def loop_times(self, user: int, row: int) -> LoopTimes | None:
        """As `PrimaryBoard.loop_times`."""
        return self._by_user[user].loop_times(row) if row else None

    def requests(self, user: int, row: int) -> int:
        """As `PrimaryBoard.requests`."""
        return self._by_user[user].requests(row) if row else 0

    def descriptors(self) -> Iterator[int]:
        """The descriptors of the memory files."""
        for board in self._by_user.values():
            yield board.fd

    def close(self) -> None:
        """Unmap all boards, and close their files."""
        take_all([board.close for board in self._by_user.values()], "the boards")
