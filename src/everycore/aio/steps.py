"""Ends of which each step is taken, whatever the others come to.

Invariant: a step that raises is logged, and the steps after it are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from everycore.aio.subscriptions import log


def take_all(steps: Iterable[Callable[[], object]], what: str) -> None:
    """Call each of `steps` in order. `what` says in the log what they were part of."""
    for step in steps:
        try:
            step()
        except Exception:
            log.exception("%s: a step failed; the others are taken", what)
