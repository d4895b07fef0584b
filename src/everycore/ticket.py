"""The ticket: what the primary tells a worker before anything else."""

from __future__ import annotations

import msgspec


class Ticket(msgspec.Struct, frozen=True):
    """A worker's identity, its inherited sockets and its terms, as they travel in the environment.

    `channel`, `link`, `board` and `leash` are [descriptor, inode]. `row` is the worker's row on the board.
    `primary` is the primary's pid. Times are in seconds. `ignores_interrupt`: whether the primary was started
    with SIGINT ignored. `blocked`: the signals that the primary has blocked, and hence the worker too.
    `beat`: how often the loop that reads the channel beats on the board; 0 means never. `tally` is
    [descriptor, inode] if the worker's own metrics are wanted, and `tally_slot` is the slot for them.
    """

    id: int
    slot: int
    generation: int
    primary: int
    channel: tuple[int, int]
    link: tuple[int, int]
    board: tuple[int, int]
    leash: tuple[int, int]
    row: int
    grace: float
    orphan_grace: float
    max_message: int
    serialization: str
    ignores_interrupt: bool
    shutdown_timeout: float = 0.0
    blocked: tuple[int, ...] = ()
    beat: float = 0.0
    tally: tuple[int, int] | None = None
    tally_slot: int = 0


def read(text: str) -> Ticket:
    """Parse a ticket. Raises ValueError."""
    try:
        return msgspec.json.decode(text, type=Ticket)
    except msgspec.DecodeError as exc:
        raise ValueError(str(exc)) from exc
