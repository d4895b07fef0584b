"""The step of a reload before its workers: a new mold, if workers are forked from one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from everycore.core import orders
from everycore.core.rollout import Rollout
from everycore.core.slots import SlotFailure
from everycore.errors import MoldFailed
from everycore.model import ExitStatus
from everycore.primary.cluster import Cluster


class MoldRenewals:
    """The new molds of one pool. `tell`: gives the supervisor an input."""

    def __init__(self, cluster: Cluster, rollout: Rollout, tell: Callable[[orders.Input], object]) -> None:
        self._cluster = cluster
        self._rollout = rollout
        self._tell = tell
        self._last: asyncio.Future[None] | None = None
        cluster._runtime.molds.is_kept = True
        self.look()

    def look(self) -> None:
        """A reload may be ordered: find out from the settings whether it begins with a mold."""
        self._rollout.prepares = self._cluster._runtime.molds.wants(self._cluster.settings)

    def perform(self, action: orders.Prepare) -> None:
        """Prepare a new mold, or stop waiting for one."""
        molds = self._cluster._runtime.molds
        if action.is_cancelled:
            self._last = None
            molds.cancel_renewal()
            return
        self._last = molds.renew(self._cluster.settings)
        self._last.add_done_callback(partial(self._renewed, action.generation))

    def _renewed(self, generation: int, done: asyncio.Future[None]) -> None:
        if done is not self._last or done.cancelled():  # a later one has replaced it
            return
        self._last = None
        error = done.exception()
        failure = None
        if error is not None:
            status = ExitStatus(error=error if isinstance(error, MoldFailed) else OSError(str(error)))
            failure = SlotFailure(0, status, overdue=False)
        self._tell(orders.MoldRenewal(generation, failure))
