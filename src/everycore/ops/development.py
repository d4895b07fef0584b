"""A service whose code is being worked on (`--reload`): reload at each change, and end at once.

Invariant: which changes count, and when, `core.changes` decides; a reload is that of HUP.
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

#: At Ctrl-C clients have so long, in seconds; whoever has not left after END is killed.
GRACE: Final = 0.1
END: Final = 0.5


class Development:
    """The reloads of one service.

    delay: seconds without a change before a reload. here: where the names of files begin in the log.
    """

    def __init__(self, watch: WatchedFiles, delay: float, here: str) -> None:
        self._watch = watch
        self._batch = Batch(delay)
        self._here = here
        self._pool: Pool
        self._due: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def reloading(self, pool: Pool) -> AsyncIterator[None]:
        """Reload at each change within the block, which begins before the pool is open."""
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
        if self._pool.size > 0:  # else it is not open yet, or is being stopped
            log.info("changed: %s; reloading", named(paths, self._here))
            forget_bytecode(paths)
            self._pool._keeper.order_reload()

    def end(self) -> None:
        """Ctrl-C: whoever waits for the prompt has no client to be spared."""
        self._pool.cluster._ending.hasten(GRACE)
        asyncio.get_running_loop().call_later(END, self._kill)

    def _kill(self) -> None:
        """An application that still shuts down has closed its channel, and is left to it."""
        for worker in self._pool.workers.values():
            if worker.is_connected():
                worker.kill(9)


def forget_bytecode(paths: Iterable[str]) -> None:
    """Remove the bytecode of these files, where they are Python's.

    Python takes it for that of its file by the second of the file's change and by its size (PEP 552): what is
    saved again within a second, in the same size, would be executed as it was first.
    """
    for path in paths:
        if path.endswith(".py"):
            with suppress(OSError, NotImplementedError):  # an interpreter may have no bytecode
                os.unlink(importlib.util.cache_from_source(path))
