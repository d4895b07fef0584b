"""Whether a worker is ready: once a listener serves it or, if it holds readiness back, once it says so.

Invariant: `on_ready` is called when the worker becomes ready, and never for one that may no longer serve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from everycore.core.lifecycle import Life

#: Seconds to leave for a worker that holds its readiness back and has not announced it.
BOOT_GRACE: Final = 1.0


class WorkerReadiness:
    """The readiness of one worker, as the primary knows it."""

    def __init__(self, life: Life, on_ready: Callable[[], None], *, is_launching: bool = False) -> None:
        self._life = life
        self._on_ready = on_ready
        self.is_ready = False
        #: Whether the worker will say when it is ready: listening does not make it so.
        self.is_held = False
        #: Whether the worker's launcher has not joined yet, so that the worker has not begun its program.
        self.is_launching = is_launching

    @property
    def is_starting(self) -> bool:
        """Whether the worker is known to have served no client yet."""
        return self.is_held or self.is_launching

    def hold(self) -> None:
        """Note that the worker will say when it is ready."""
        self.is_held = not self.is_ready

    def announce(self) -> None:
        """Note that the worker says that it is ready."""
        self.is_held = False
        self._become()

    def listens(self) -> None:
        """Note that a listener serves the worker."""
        if not self.is_held:
            self._become()

    def grace(self, seconds: float) -> float:
        """How many of `seconds` the worker gets to leave. One that is still starting has no work."""
        return min(seconds, BOOT_GRACE) if self.is_starting else seconds

    def end(self) -> None:
        """Note that the worker gets no more connections."""
        self.is_ready = False

    def _become(self) -> None:
        if not self.is_ready and self._life.may_serve:
            self.is_ready = True
            self._on_ready()
