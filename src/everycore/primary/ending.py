"""How a cluster ends: announced, then begun for good, then over; or at once, by killing.

Invariant: once the end has begun, no process is started, and every listener serves the connections that have
come and refuses new ones.
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
    """The end of one cluster. `runtime` is set once the cluster is open."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.runtime: Runtime | None = None
        #: Whether snapshots say that the cluster is being stopped.
        self.is_announced = False
        #: Whether the end has begun, for good: workers that are forked from now on do not start.
        self.has_begun = False

    def shut_listeners(self) -> None:
        """Shut the listeners before all workers leave: connections that have come are served."""
        if self.runtime is not None:
            self.runtime.switchboard.shut()

    def close_idle(self) -> None:
        """From now on, let workers that are asked to leave close idle connections."""
        if self.runtime is not None:
            self.runtime.spares_idle = False

    def hasten(self, grace: float) -> None:
        """Begin, with `grace` seconds for live workers. Workers that are leaving already are killed."""
        self.close_idle()
        self.begin()
        for worker in self._book.workers.values():
            if worker.state is State.DRAINING:
                worker.kill(9)
            else:
                worker._driver.disconnect(grace)

    def begin(self) -> None:
        """Shut the listeners, and let `fork` start no process any more.

        Otherwise a program that replaces workers as they die would never come to its end.
        """
        self.is_announced = self.has_begun = True
        self._close_molds()
        self.shut_listeners()

    def _close_molds(self) -> None:
        if self.runtime is not None:
            self.runtime.molds.close()

    async def run(self) -> None:
        """Begin, ask every worker to leave, and wait for the workers of this moment.

        A program may go on to fork workers that never start.
        """
        self.begin()
        workers = tuple(self._book.workers.values())
        for worker in workers:
            worker.disconnect()
        await asyncio.gather(*(worker.wait() for worker in workers))

    async def kill_all(self) -> None:
        """Send SIGKILL to every worker, and wait.

        A kill takes milliseconds, so not even a cancellation cuts this short.
        """
        self._close_molds()
        workers = self._book.workers.values()
        take_all((partial(worker.kill, 9) for worker in workers), "the end of the cluster")
        await see_through(self._book.wait())
