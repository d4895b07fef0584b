"""How long a worker that holds too many connections leaves the next ones to other workers.

Under `shared`, tell a connection that another worker is about to take from one that no other worker will
take. Invariant: decides from its arguments alone and knows no clock.

A worker that was woken for a connection takes it 50 us later, if a processor is free. Where processors are
short this may take 30 ms. A worker that comes back to the queue after a fixed 2 ms then takes the connection
meant for the other. (Measured: a largest share of 1.2 to 1.4 times the mean, 400 connections over 8 workers,
beside four computing processes on two processors.)

A worker can see whether waiting helps. It helped if a connection waited at one look and is gone at the next.
It did not if the connection still waits, because the other worker is stopped or does not serve this listener.
The waiting is then soon given up.
"""

from __future__ import annotations

from typing import Final

#: Seconds of one wait: the shortest, when waiting was in vain; the longest, once it has helped.
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
        """The worker leaves the queue to the others. `waits`: whether a connection waits at this moment."""
        self._until = now + self._span
        self._somebody_waited = waits

    def lasts(self, now: float, *, waits: bool) -> bool:
        """Whether to stay out. `waits`: whether a connection waits in the accept queue."""
        if not waits:
            if self._somebody_waited:
                self._span = MOST
            return False
        self._somebody_waited = True
        if now < self._until:
            return True
        self._span = max(self._span / 2, LEAST)
        return False
