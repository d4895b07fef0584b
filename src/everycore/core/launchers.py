"""A program under `run` that starts another one, which listens in its place: is that told, or refused?

Invariant: pure. `Launch.look` is called again and again for a worker that has not listened yet; ages are its
own, in seconds.

Such a worker may have started a helper, and listen next. It has not if it does nothing but wait for that
process (waitpid(2)), for long: it is a launcher, and connections would go past everycore, to one process.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Sequence
from typing import Final

#: Seconds for which a launcher waits for a process that listens, before it is refused.
WAITS: Final = 10.0
#: The age at which a worker has not just started a helper, if a process of its own listens and it does not.
TELL_AT: Final = 20.0
#: A command line is told up to so many characters.
_LONGEST: Final = 200
#: Options of Python that have a value as their next word.
_WITH_VALUE: Final = frozenset({"-W", "-X"})


class Verdict(enum.Enum):
    """What is done about a worker."""

    NOTHING = enum.auto()
    TELL = enum.auto()
    REFUSE = enum.auto()


class Launch:
    """One worker, which has not listened."""

    def __init__(self) -> None:
        self._waits_since: float | None = None
        self._told: set[int] = set()

    def look(self, child: int | None, age: float, *, waits: bool) -> Verdict:
        """`child`: a process of its own that listens, if any. waits: it waits for a process to end."""
        if child is None or not waits:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = age
        if self._waits_since is not None and age - self._waits_since >= WAITS:
            return Verdict.REFUSE
        if child is None or age < TELL_AT or child in self._told:
            return Verdict.NOTHING
        self._told.add(child)
        return Verdict.TELL


def remedy(words: Sequence[str]) -> str:
    """What to do about a process with that command line: start it itself, if it is a program of Python."""
    program = _program(words)
    text = shlex.join(program)
    if not program or len(text) > _LONGEST or not text.isprintable():
        return "let it listen in the process in which it begins"
    return f"start that one, by: everycore run {text}"


def _program(words: Sequence[str]) -> Sequence[str]:
    """The words behind `python` and its options; none for another program, and for `-c`."""
    if not words or not words[0].rpartition("/")[2].startswith("python"):
        return ()
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] != "-m":
        if "c" in words[at].partition("-")[2] and not words[at].startswith("--"):
            return ()
        at += 2 if words[at] in _WITH_VALUE else 1
    return words[at:]
