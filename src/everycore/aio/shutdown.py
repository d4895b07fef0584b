"""Stopping a primary that was asked to by a signal.

Job: connect `everycore.run`, which owns the signal handlers, with the clusters opened inside it, without a
global: a context variable that `run` sets and `Cluster` reads. Invariant: handlers are installed while a
cluster is open and restored after the last; a process without a cluster keeps plain `asyncio.run`
behaviour. Must not import the primary, which it only knows as `Stoppable`.
"""

from __future__ import annotations

import asyncio
import signal
from contextvars import ContextVar
from typing import Any, Final, Protocol

from everycore.core.stopping import StopRequests
from everycore.system import forked_signals, inherited

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stoppable(Protocol):
    """A cluster, as this module needs it."""

    async def _shut_down(self) -> None:
        """Ask everybody to leave, start nobody from now on, and wait."""


class Shutdown:
    """What `run` does about INT and TERM.

    The first one: every open cluster disconnects within its grace, then the main task is cancelled. The
    second: the main task is cancelled at once, which kills the workers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, main: asyncio.Task[Any]) -> None:
        self._loop = loop
        self._main = main
        self._clusters: set[Stoppable] = set()
        self._previous: dict[signal.Signals, Any] = {}
        self._draining: asyncio.Task[None] | None = None
        self._requests = StopRequests()
        #: The signal that stopped us.
        self.signal: signal.Signals | None = None

    def add(self, cluster: Stoppable) -> None:
        """A cluster was entered."""
        if not self._clusters:
            self._install()
        self._clusters.add(cluster)

    def discard(self, cluster: Stoppable) -> None:
        """A cluster was left."""
        self._clusters.discard(cluster)
        if not self._clusters:
            self._restore()

    def _install(self) -> None:
        for number in SIGNALS:
            previous = signal.getsignal(number)
            try:
                self._loop.add_signal_handler(number, self._stop, number)
            except (ValueError, RuntimeError):  # not the main thread: signals are somebody else's business
                return
            forked_signals.own(number)
            self._previous[number] = previous
        inherited.hear(SIGNALS)

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, previous)
        self._previous.clear()

    def _stop(self, number: signal.Signals) -> None:
        match self._requests.take(number, self._loop.time()):
            case 0:
                pass
            case 1:
                self.signal = signal.Signals(number)
                self._draining = self._loop.create_task(self._drain())
            case _:
                self._main.cancel()

    async def _drain(self) -> None:
        try:
            await asyncio.gather(*(cluster._shut_down() for cluster in self._clusters))
        finally:
            self._main.cancel()


_current: ContextVar[Shutdown | None] = ContextVar("everycore_shutdown", default=None)
current_shutdown = _current.get
set_shutdown = _current.set
