"""Clean-up in steps that all run, whichever of them fail.

Invariant: a step that raises is logged, and the steps after it run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from everycore.aio.subscriptions import log


def take_all(steps: Iterable[Callable[[], object]], what: str) -> None:
    """Call each of `steps` in order. `what` names the whole in the log."""
    for step in steps:
        try:
            step()
        except Exception:
            log.exception("%s: a step failed; the other steps still run", what)
