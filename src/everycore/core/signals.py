"""The table of the signals that command a pool without ending it.

`core.stopping` has TERM, INT and QUIT. `aio.orders` carries out what this table says, for `everycore serve`,
`everycore run` and `Pool(signals=True)`. The table in docs/reference/signals.md is generated from this one.
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
    """The situation of the pool when a signal arrives."""

    DETACHED = "without a controlling terminal"
    TERMINAL = "with a controlling terminal"
    HUNG_UP = "after the terminal has hung up"
    ENDING = "while the workers are being stopped"


class Act(enum.Enum):
    """What a signal does."""

    RELOAD = "replaces all workers, each new one ready before the old one leaves"
    STOP = "stops like SIGTERM, without the delay"
    REOPEN = "reopens the log files, in the primary and its workers"
    RESERVE = "nothing yet; a log line says so"
    GROW = "adds a worker"
    SHRINK = "removes a worker, but not the last one"
    PAUSE = "suspends the workers, and then the primary"
    RESUME = "resumes the workers and the primary"
    IGNORE = "nothing; a log line says so"
    NOTHING = "nothing"
    DEFAULT = "the system's default"


_Row = tuple[Act, Act, Act, Act]

#: In the order of `Surroundings`.
_ROWS: Final[Mapping[Signal, _Row]] = {
    Signal.HUP: (Act.RELOAD, Act.RELOAD, Act.STOP, Act.IGNORE),
    Signal.USR1: (Act.REOPEN,) * 4,
    Signal.USR2: (Act.RESERVE,) * 4,
    # The kernel sends these two to a background process that reads from or writes to its terminal.
    Signal.TTIN: (Act.GROW, Act.DEFAULT, Act.DEFAULT, Act.IGNORE),
    Signal.TTOU: (Act.SHRINK, Act.DEFAULT, Act.DEFAULT, Act.IGNORE),
    # The kernel sends it when the size of the terminal's window changes.
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
    """Return the situation of a pool that had a controlling terminal when opened, or has one now."""
    if is_ending:
        return Surroundings.ENDING
    if not had_terminal:
        return Surroundings.DETACHED
    return Surroundings.TERMINAL if has_terminal else Surroundings.HUNG_UP


def heard(*, at_terminal: bool) -> tuple[Signal, ...]:
    """Return the signals for which a pool needs a handler: all but those with NOTHING or DEFAULT."""
    start = Surroundings.TERMINAL if at_terminal else Surroundings.DETACHED
    return tuple(one for one in Signal if POOL[one, start] not in (Act.DEFAULT, Act.NOTHING))
