"""Programs under `run` that start another program, which listens in their place: when to warn, and to refuse.

Invariant: pure. `Launch.look` is called again and again for a worker that has not listened yet. All ages are
the worker's, in seconds.

Such a worker may have started a helper, and listen next. But if it does nothing except wait for that process
(waitpid(2)), for a long time, it is a launcher: connections would bypass everycore, and go to one process.
"""

from __future__ import annotations

import enum
import math
import shlex
from collections.abc import Sequence
from typing import Final

#: How long a launcher may wait for a process that listens before it is refused, in seconds.
WAITS: Final = 10.0
#: From this age on, in seconds, a listening child of a worker that does not listen is more than a helper.
TELL_AT: Final = 20.0
#: The longest command line that is shown, in characters.
_LONGEST: Final = 200
#: Options of Python whose value is the next word.
_WITH_VALUE: Final = frozenset({"-W", "-X"})


class Verdict(enum.Enum):
    """What to do about a worker."""

    NOTHING = enum.auto()
    TELL = enum.auto()
    REFUSE = enum.auto()


class Launch:
    """One worker that has not listened."""

    def __init__(self) -> None:
        self._waits_since: float | None = None
        self._told: set[int] = set()

    def look(self, child: int | None, age: float, *, waits: bool) -> Verdict:
        """Judge the worker.

        `child`: a process of its own that listens. waits: it waits for a process to end.
        """
        if child is None or not waits:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = age
        if child is not None and self._waits_since is not None and age - self._waits_since >= WAITS:
            self._waits_since = math.inf  # said once: where nobody is refused, it is a warning
            self._told.add(child)
            return Verdict.REFUSE
        if child is None or age < TELL_AT or child in self._told:
            return Verdict.NOTHING
        self._told.add(child)
        return Verdict.TELL


def remedy(words: Sequence[str]) -> str:
    """What the user can do about a process with that command line."""
    program = _program(words)
    text = shlex.join(program)
    if not program or len(text) > _LONGEST or not text.isprintable():
        return "make it listen in its first process"
    return f"start that program instead: everycore run {text}"


def _program(words: Sequence[str]) -> Sequence[str]:
    """The words after `python` and its options; none for another program, or for `-c`."""
    if not words or not words[0].rpartition("/")[2].startswith("python"):
        return ()
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] != "-m":
        if "c" in words[at].partition("-")[2] and not words[at].startswith("--"):
            return ()
        at += 2 if words[at] in _WITH_VALUE else 1
    return words[at:]
