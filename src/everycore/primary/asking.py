"""Requests between a primary and its workers, in either direction: `Pool.answer` and `Pool.request`.

A request goes to the ready worker with the fewest open requests of this kind. Among equals it goes to the
worker that was asked longest ago. It is never sent twice: a worker that is lost with a request may have done
what it asks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from everycore.aio.requests import Handler, check_handler
from everycore.aio.subscriptions import Subscription
from everycore.errors import ChannelClosed, ClusterClosed, RequestTimeout
from everycore.events import Exited, Ready
from everycore.settings import check_seconds

if TYPE_CHECKING:
    from everycore.primary.cluster import Cluster
    from everycore.worker_face import Worker


class Asking:
    """The requests of one cluster."""

    def __init__(self, cluster: Cluster, end: asyncio.Future[None]) -> None:
        """`end` is done when the pool has ended. After that no worker answers."""
        self._cluster = cluster
        self._end = end
        self._open: Counter[int] = Counter()
        self._asked: dict[int, int] = {}
        self._count = 0
        self._handler: Handler | None = None
        self._answering: dict[int, Subscription] = {}
        self._ready = asyncio.Event()
        cluster.on(Ready, lambda _: self._ready.set())
        cluster.on(Exited, self._forget)
        end.add_done_callback(lambda _: self._ready.set())

    def forked(self, worker: Worker) -> None:
        """Answer the requests of a worker that was just forked, too."""
        if self._handler is not None:
            self._answering[worker.id] = worker.answer(self._handler)

    def answer(self, handler: Handler) -> Subscription:
        """Let `handler` answer the requests of every worker, including those forked later."""
        check_handler(handler)
        if self._handler is not None:
            raise RuntimeError("the workers' requests are answered already: cancel that subscription first")
        self._handler = handler
        for worker in self._cluster.workers.values():
            self.forked(worker)
        return Subscription(self._answer_no_more)

    def _answer_no_more(self) -> None:
        self._handler = None
        for subscription in self._answering.values():
            subscription.cancel()
        self._answering.clear()

    async def request(self, message: Any, handle: Any, *, timeout: float | None, keep_open: bool) -> Any:
        """Ask a free worker. Waits for one if none is ready."""
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            left = None if deadline is None else max(deadline - loop.time(), 0.0)
            worker = self._freest()
            if worker is None:
                self._check_end()
                await self._some_worker(left, timeout)
                continue
            try:
                reply = worker.request(message, handle, timeout=left, keep_open=keep_open)
            except ChannelClosed:  # the worker has just gone, and nothing was sent
                self._ready.clear()
                continue
            return await self._counted(worker.id, reply)

    async def _counted(self, number: int, reply: Any) -> Any:
        self._count += 1
        self._asked[number] = self._count
        self._open[number] += 1
        try:
            return await reply
        finally:
            if number in self._open:
                self._open[number] -= 1

    def _freest(self) -> Worker | None:
        ready = [
            worker for worker in self._cluster.workers.values() if worker.is_ready and worker.is_connected()
        ]
        if not ready:
            self._ready.clear()
            return None
        return min(ready, key=lambda worker: (self._open[worker.id], self._asked.get(worker.id, 0)))

    def _check_end(self) -> None:
        """Raise the error that ended the pool, if it has ended."""
        if self._end.done():
            self._end.result()
            raise ClusterClosed("the pool has ended: no worker is left to ask")

    async def _some_worker(self, seconds: float | None, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        except TimeoutError:
            raise RequestTimeout("any worker (none was ready)", timeout or 0.0) from None

    def _forget(self, event: Exited) -> None:
        for table in (self._open, self._asked, self._answering):
            table.pop(event.worker.id, None)
