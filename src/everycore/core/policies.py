"""Which worker gets the next connection: small objects that answer one question.

Pick one lane among those that may be picked. Invariant: `pick` changes nothing. A connection that turns out
not to be there (`accept` returned EAGAIN) therefore moves no turn. (A prototype that moved the turn first
gave 8 workers 100/100/100/100/0/0/0/0 connections.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

#: A lane that could not be served is owed at most this many turns: its worker is not flooded on return.
MOST_ARREARS = 8


class Candidate(Protocol):
    """The part of a lane that a policy may look at."""

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
    """Chooses a lane. Candidates are never empty, and are in the order in which their workers joined."""

    def pick(self, candidates: Sequence[C]) -> C:
        """Choose one of `candidates`, changing nothing."""
        ...


class RoundRobin:
    """Strict turns: pick the lane that was given the fewest connections; of equals, the first to join.

    Because given connections are counted, and no pointer moves, the turn survives lanes that come, go, fill
    up or fall behind. The dispatcher keeps the counts within `MOST_ARREARS` of each other.
    """

    def pick(self, candidates: Sequence[C]) -> C:
        """Choose one of `candidates`, changing nothing."""
        best = candidates[0]
        for candidate in candidates:
            if candidate.given < best.given:
                best = candidate
        return best
