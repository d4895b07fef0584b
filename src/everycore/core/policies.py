"""Who gets the next connection: small objects, one question each.

Pick one lane among those that may be picked. Invariant: `pick` changes nothing, so that a connection which
turns out not to be there (`accept` returned EAGAIN) moves no turn. (A prototype that moved the turn first
served 8 workers 100/100/100/100/0/0/0/0.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

#: A lane that could not be served is owed at most this many turns: a worker that comes back is not flooded.
MOST_ARREARS = 8


class Candidate(Protocol):
    """What a policy may look at."""

    @property
    def given(self) -> int:
        """Connections handed over so far, with arrears forgiven: comparable between candidates."""
        ...

    @property
    def outstanding(self) -> int:
        """Connections handed over and not yet acknowledged."""
        ...


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    """The question. Candidates come in the order in which their workers joined and are never empty."""

    def pick(self, candidates: Sequence[C]) -> C:
        """Choose one of `candidates`, changing nothing."""
        ...


class RoundRobin:
    """Strictly in turn, by connections given: the one that was given fewest; of equals, the first to join.

    Counting what was given, rather than moving a pointer, makes the turn survive lanes that come, go, fill
    up or fall behind. The dispatcher keeps the counts within `MOST_ARREARS` of each other.
    """

    def pick(self, candidates: Sequence[C]) -> C:
        """Choose one of `candidates`, changing nothing."""
        best = candidates[0]
        for candidate in candidates:
            if candidate.given < best.given:
                best = candidate
        return best
