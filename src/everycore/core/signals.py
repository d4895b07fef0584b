"""What the signals do that command a pool and do not end it: one table.

TERM, INT and QUIT are in `core.stopping`. Nothing here knows how it is done: `aio.orders` does it, for
`everycore serve`, `everycore run` and `Pool(signals=True)`. The table in docs/reference/signals.md is drawn
from this one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class Signal(enum.Enum):
    """The signals of this table."""

    HUP = "SIGHUP"
    USR1 = "SIGUSR1"
    USR2 = "SIGUSR2"
    TTIN = "SIGTTIN"
    TTOU = "SIGTTOU"
    WINCH = "SIGWINCH"
    TSTP = "SIGTSTP"
    CONT = "SIGCONT"


class Surroundings(enum.Enum):
    """Where the pool is when a signal comes."""

    DETACHED = "without a controlling terminal"
    TERMINAL = "with one"
    HUNG_UP = "once that is gone"
    ENDING = "while the workers are being stopped"


class Act(enum.Enum):
    """What is done."""

    RELOAD = "all workers are replaced, each new one ready before the old one leaves"
    STOP = "as SIGTERM, without the delay"
    REOPEN = "log files are opened anew, by the primary and its workers"
    RESERVE = "nothing yet; a log line says so"
    GROW = "one worker more"
    SHRINK = "one worker fewer; at least one stays"
    PAUSE = "the workers are stopped, and then the primary"
    RESUME = "the workers are continued, and the primary goes on"
    IGNORE = "nothing; a log line says so"
    NOTHING = "nothing"
    DEFAULT = "the system's default"


_Row = tuple[Act, Act, Act, Act]

#: In the order of `Surroundings`.
_ROWS: Final[Mapping[Signal, _Row]] = {
    Signal.HUP: (Act.RELOAD, Act.RELOAD, Act.STOP, Act.IGNORE),
    Signal.USR1: (Act.REOPEN,) * 4,
    Signal.USR2: (Act.RESERVE,) * 4,
    # The kernel sends these two to a background process that reads or writes its terminal.
    Signal.TTIN: (Act.GROW, Act.DEFAULT, Act.DEFAULT, Act.IGNORE),
    Signal.TTOU: (Act.SHRINK, Act.DEFAULT, Act.DEFAULT, Act.IGNORE),
    # A terminal sends it whenever its window changes its size.
    Signal.WINCH: (Act.NOTHING,) * 4,
    Signal.TSTP: (Act.PAUSE,) * 4,
    Signal.CONT: (Act.RESUME,) * 4,
}

POOL: Final[Mapping[tuple[Signal, Surroundings], Act]] = {
    (signal, where): act
    for signal, row in _ROWS.items()
    for where, act in zip(Surroundings, row, strict=True)
}


def surroundings(*, had_terminal: bool, has_terminal: bool, is_ending: bool) -> Surroundings:
    """Where a pool is that had a controlling terminal when it was opened, and has one now."""
    if is_ending:
        return Surroundings.ENDING
    if not had_terminal:
        return Surroundings.DETACHED
    return Surroundings.TERMINAL if has_terminal else Surroundings.HUNG_UP


def heard(*, at_terminal: bool) -> tuple[Signal, ...]:
    """The signals that a pool needs a handler for. Nothing needs none."""
    start = Surroundings.TERMINAL if at_terminal else Surroundings.DETACHED
    return tuple(one for one in Signal if POOL[one, start] not in (Act.DEFAULT, Act.NOTHING))
