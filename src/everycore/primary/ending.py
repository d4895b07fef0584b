"""How a cluster ends: announced, then begun for good, then over; or at once, by killing.

Invariant: once it has begun, no process is started any more, and every listener serves those who have come
and refuses newcomers.
"""

from __future__ import annotations

import asyncio
from functools import partial

from everycore.aio.steps import take_all
from everycore.aio.waiting import see_through
from everycore.model import State
from everycore.primary.book import Book
from everycore.primary.runtime import Runtime


class Ending:
    """The end of one cluster. `runtime` is there once the cluster is open."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.runtime: Runtime | None = None
        #: Snapshots say that it is being stopped.
        self.is_announced = False
        #: For good: what is forked from now on does not start.
        self.has_begun = False

    def shut_listeners(self) -> None:
        """All workers are to leave. First the listeners go: everybody who has come is served."""
        if self.runtime is not None:
            self.runtime.switchboard.shut()

    def close_idle(self) -> None:
        """Workers that are asked to leave from now on close connections whose client asks for nothing."""
        if self.runtime is not None:
            self.runtime.spares_idle = False

    def hasten(self, grace: float) -> None:
        """Begin, with `grace` seconds for workers that are there. Those that leave already are killed."""
        self.close_idle()
        self.begin()
        for worker in self._book.workers.values():
            if worker.state is State.DRAINING:
                worker.kill(9)
            else:
                worker._driver.disconnect(grace)

    def begin(self) -> None:
        """The listeners go, and `fork` starts no process any more.

        A program that replaces workers which die would never come to its end.
        """
        self.is_announced = self.has_begun = True
        self._close_molds()
        self.shut_listeners()

    def _close_molds(self) -> None:
        if self.runtime is not None:
            self.runtime.molds.close()

    async def run(self) -> None:
        """Begin, ask every worker to leave, and wait for those of this moment.

        A program may go on to fork some that never start.
        """
        self.begin()
        workers = tuple(self._book.workers.values())
        for worker in workers:
            worker.disconnect()
        await asyncio.gather(*(worker.wait() for worker in workers))

    async def kill_all(self) -> None:
        """SIGKILL everybody and wait.

        A kill takes milliseconds, so not even a cancellation cuts this short.
        """
        self._close_molds()
        workers = self._book.workers.values()
        take_all((partial(worker.kill, 9) for worker in workers), "the end of the cluster")
        await see_through(self._book.wait())
