"""How long a worker that holds too many connections leaves the next ones to others.

Under `shared`, tell somebody who waits for another worker that is about to take it from somebody whom nobody
will take. Invariant: decides from what it is told; knows no clock.

A worker that was woken for a connection takes it 50 us later, if there is a processor for it. Where
processors are short it may be 30 ms, and a worker that comes back to the queue after a fixed 2 ms takes what
was meant for the other: largest share 1.2 to 1.4 times the mean of 400 connections over 8 workers, with four
processes that compute on two processors. That waiting helps shows itself: somebody waited at one look and is
gone at the next. That it does not (the other is stopped, or does not serve this listener) shows itself too,
and then it is soon given up.
"""

from __future__ import annotations

from typing import Final

#: Seconds: at least, when waiting was in vain; at most, once it has been of use.
LEAST: Final = 0.002
MOST: Final = 0.032


class Patience:
    """The patience of one worker with one listener."""

    __slots__ = ("_somebody_waited", "_span", "_until")

    def __init__(self) -> None:
        self._span = LEAST
        self._until = 0.0
        self._somebody_waited = False

    def begin(self, now: float, *, waits: bool) -> None:
        """The worker leaves the queue for the sake of others, while a connection `waits`, or none does."""
        self._until = now + self._span
        self._somebody_waited = waits

    def lasts(self, now: float, *, waits: bool) -> bool:
        """Whether to stay out, seeing that a connection `waits` in the accept queue, or that none does."""
        if not waits:
            if self._somebody_waited:
                self._span = MOST
            return False
        self._somebody_waited = True
        if now < self._until:
            return True
        self._span = max(self._span / 2, LEAST)
        return False
