"""The primary's edge of `core.stopping`: it handles signals as the table for its kind of program says.

A context variable connects `everycore.run`, or a command, with the clusters opened inside it. Invariant:
handlers are installed while a cluster is open and restored after the last one. A process without a cluster
behaves as under plain `asyncio.run`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Protocol

from everycore.aio import signals
from everycore.core import stopping
from everycore.core.stopping import PrimaryStage, StopAction, StopInput
from everycore.errors import ClusterClosed

Hook = Callable[[signal.Signals], object]


class Stoppable(Protocol):
    """The part of a cluster that this module needs."""

    def _announce_stop(self) -> None:
        """Have snapshots say from now on that the cluster is being stopped. Nothing else changes yet."""

    def _begin_shut_down(self) -> None:
        """Serve the connections that have come, refuse new ones and start no worker. This is final."""

    async def _shut_down(self) -> None:
        """Begin to shut down, ask every worker to leave, and wait for the workers of this moment.

        Raises ClusterClosed if the cluster's block is being left: that has asked them already.
        """


class Shutdown:
    """How one primary handles signals while a cluster is open.

    main: the task that `StopAction.CANCEL` cancels.
    hooks: the functions that `StopAction.TELL` and `StopAction.DUMP` call with the signal.
    delay: seconds from the signal until the workers are asked. Load balancers learn of a stop late: until
        then new connections are served, and workers that die are replaced.
    is_last: the process ends after its last cluster. Signals that would stop it are then ignored: a second
        SIGTERM from a supervisor must not change how it ends.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        main: asyncio.Task[Any],
        table: stopping.Table[PrimaryStage] = stopping.PROGRAM,
        hooks: Mapping[StopAction, Hook] | None = None,
        *,
        is_last: bool = False,
        delay: float = 0.0,
    ) -> None:
        self._loop = loop
        self._main = main
        self._machine = stopping.Machine(table, PrimaryStage.RUNNING)
        self._steps: Final[Mapping[StopAction, Hook]] = {
            StopAction.ASK: self._ask,
            StopAction.CANCEL: lambda _: self._main.cancel(),
            **(hooks or {}),
        }
        self._is_last = is_last
        self._delay = delay
        #: Runs from the signal until the workers are asked.
        self._delayed: asyncio.TimerHandle | None = None
        #: The open clusters, each with the event that is set when it is left.
        self._clusters: dict[Stoppable, asyncio.Event] = {}
        self._previous: dict[signal.Signals, Any] = {}
        self._asking: asyncio.Task[None] | None = None
        #: The signal that stopped this process.
        self.signal: signal.Signals | None = None

    def add(self, cluster: Stoppable) -> None:
        """A cluster was entered."""
        if not self._clusters:
            self._install()
        self._clusters[cluster] = asyncio.Event()
        if self._machine.stage is not PrimaryStage.RUNNING:
            cluster._announce_stop()
            if self._delayed is None:
                cluster._begin_shut_down()

    def discard(self, cluster: Stoppable) -> None:
        """A cluster was left."""
        if (left := self._clusters.pop(cluster, None)) is not None:
            left.set()
            if not self._clusters:
                if self._delayed is not None:
                    self._delayed.cancel()
                    self._delayed = None
                self._restore()

    def order(self) -> None:
        """Stop as on SIGTERM, for callers that may ask for it."""
        self._hear(signal.SIGTERM, StopInput.TERM)

    # --- handlers -----------------------------------------------------------------------------------------

    def _install(self) -> None:
        handlers = {}
        for what in stopping.signals_of(self._machine.table):
            number = signal.Signals[f"SIG{what.name}"]
            if signal.getsignal(number) is not signal.SIG_IGN or what in stopping.HEARD_ANYWAY:
                handlers[number] = partial(self._hear, number, what)
        self._previous = signals.install(self._loop, handlers)

    def _restore(self) -> None:
        if self._is_last:
            self._previous = dict.fromkeys(self._previous, signal.SIG_IGN)
        signals.restore(self._loop, self._previous)
        self._previous = {}

    # --- decisions and their actions ----------------------------------------------------------------------

    def _hear(self, number: signal.Signals, what: StopInput) -> None:
        self.signal = self.signal or number
        self._take(what, number)

    def _take(self, what: StopInput, number: signal.Signals | None = None) -> None:
        number = number or self.signal
        assert number is not None  # a signal is always the first input
        for action in self._machine.take(what, self._loop.time()):
            self._steps[action](number)

    def _ask(self, _: signal.Signals) -> None:
        for cluster in self._clusters:
            cluster._announce_stop()
        if self._delay > 0:
            self._delayed = self._loop.call_later(self._delay, self._ask_all)
        else:
            self._ask_all()

    def _ask_all(self) -> None:
        self._delayed = None
        self._asking = self._loop.create_task(self._ask_and_wait())

    async def _ask_and_wait(self) -> None:
        await asyncio.gather(*(self._ask_one(cluster, left) for cluster, left in self._clusters.items()))
        self._take(StopInput.ALL_GONE)

    async def _ask_one(self, cluster: Stoppable, left: asyncio.Event) -> None:
        try:
            await cluster._shut_down()
        except ClusterClosed:
            await left.wait()


_current: ContextVar[Shutdown | None] = ContextVar("everycore_shutdown", default=None)
current_shutdown = _current.get
set_shutdown = _current.set
