"""Whether a worker is ready: once a listener serves it or, if it holds that back, once it says so.

Invariant: `on_ready` is called as it becomes ready, and never for a worker that may serve no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from everycore.core.lifecycle import Life

#: Seconds for a worker to leave that is going to say when it is ready, and has not.
BOOT_GRACE: Final = 1.0


class WorkerReadiness:
    """The readiness of one worker, as the primary knows it."""

    def __init__(self, life: Life, on_ready: Callable[[], None]) -> None:
        self._life = life
        self._on_ready = on_ready
        self.is_ready = False
        #: It is going to say when it is ready: listening does not make it so.
        self.is_held = False

    def hold(self) -> None:
        """It is going to say when it is ready."""
        self.is_held = not self.is_ready

    def announce(self) -> None:
        """It says that it is ready."""
        self.is_held = False
        self._become()

    def listens(self) -> None:
        """It is served by a listener."""
        if not self.is_held:
            self._become()

    def grace(self, seconds: float) -> float:
        """What it has of `seconds` to leave. One that is still to say that it is ready has no work."""
        return min(seconds, BOOT_GRACE) if self.is_held else seconds

    def end(self) -> None:
        """It is given no more connections."""
        self.is_ready = False

    def _become(self) -> None:
        if not self.is_ready and self._life.may_serve:
            self.is_ready = True
            self._on_ready()
