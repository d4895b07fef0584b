"""A service in development (`--reload`): it reloads at each change, and ends at once.

Invariant: `core.changes` decides which changes count, and when. The reload itself is that of HUP.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

from everycore.core.changes import Batch, WatchedFiles, named
from everycore.ops.watching import watching
from everycore.pool import Pool

log = logging.getLogger("everycore.ops")

#: At Ctrl-C, requests get GRACE seconds. A worker that has not left after END seconds is killed.
GRACE: Final = 0.1
END: Final = 0.5


class Development:
    """The automatic reloads of one service.

    delay: how long files must be unchanged before a reload, in seconds. here: log lines name files relative
    to it.
    """

    def __init__(self, watch: WatchedFiles, delay: float, here: str) -> None:
        self._watch = watch
        self._batch = Batch(delay)
        self._here = here
        self._pool: Pool
        self._due: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def reloading(self, pool: Pool) -> AsyncIterator[None]:
        """Reload at each change within the block, which is entered before the pool opens."""
        self._pool = pool
        pool._supervisor.rollout.is_awaited = True
        async with watching(self._watch, self._on_changes):
            log.info("watching %s (--reload)", ", ".join(self._watch.folders))
            try:
                yield
            finally:
                if self._due is not None:
                    self._due.cancel()

    def _on_changes(self, paths: list[str]) -> None:
        if self._due is not None:
            self._due.cancel()
        loop = asyncio.get_running_loop()
        self._due = loop.call_at(self._batch.add(paths, loop.time()), self._reload)

    def _reload(self) -> None:
        self._due = None
        paths = self._batch.take()
        if self._pool.size > 0:  # otherwise the pool is not open yet, or is stopping
            log.info("changed: %s; reloading", named(paths, self._here))
            forget_bytecode(paths)
            self._pool._keeper.order_reload()

    def end(self) -> None:
        """End at Ctrl-C: a developer waits for the prompt, and has no clients to spare."""
        self._pool.cluster._ending.hasten(GRACE)
        asyncio.get_running_loop().call_later(END, self._kill)

    def _kill(self) -> None:
        """Kill the workers.

        Those whose application is shutting down have closed their channel, and are spared.
        """
        for worker in self._pool.workers.values():
            if worker.is_connected():
                worker.kill(9)


def forget_bytecode(paths: Iterable[str]) -> None:
    """Remove the cached bytecode of these files, if they are Python's.

    Python matches bytecode to its source by the size and the modification time, in whole seconds (PEP 552). A
    file that is saved twice within a second, at the same size, would run as it was saved first.
    """
    for path in paths:
        if path.endswith(".py"):
            with suppress(OSError, NotImplementedError):  # the interpreter may not cache bytecode
                os.unlink(importlib.util.cache_from_source(path))
