"""How a worker ends: the steps, in order.

Job: run them on the worker's loop. Invariant: they run once, whoever asked (the primary, the program, a
signal, the loss of the primary), and end within the grace. Must not import the primary's side.

1. it leaves the rotation (the primary takes its belts back) and `wait_shutdown()` resolves;
2. the servers it got through us close;
3. our own count of open connections reaches 0, or grace is over: then they are aborted;
4. it says `Drained` and the channel closes;
5. the main task is cancelled, which `everycore.run` swallows; but if it has called `wait_shutdown()` it is
  left to return
   by itself until grace is over.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

from everycore.core import wire

if TYPE_CHECKING:
    from everycore.worker.context import WorkerContext

#: After an abort the protocols still hear `connection_lost`; they get this long, in seconds.
ABORT_TIME = 0.1
#: How often to look at connections that do not tell when they are closed, in seconds.
LOOK = 0.02


class Drain:
    """One departure. `deadline` is in loop time."""

    def __init__(self, context: WorkerContext, loop: asyncio.AbstractEventLoop, grace: float) -> None:
        self._context = context
        self._loop = loop
        self.deadline = loop.time() + grace
        self.done = asyncio.Event()
        self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            self._context.close_servers()
            await self._connections_end()
            await self._say_goodbye()
            await self._end_main()
        finally:
            self.done.set()

    async def _connections_end(self) -> None:
        if not await self._within_grace(self._none_open()):
            self._context.connections.abort()
            await _within(self._none_open(), ABORT_TIME)

    async def _none_open(self) -> None:
        """Return when no connection is open. Most tell when they are closed, at others one has to look."""
        connections = self._context.connections
        while connections.open:
            told = asyncio.Event()
            connections.when_none(told.set)
            await told.wait()
            if connections.open:
                await asyncio.sleep(LOOK)

    async def _say_goodbye(self) -> None:
        mailbox, channel = self._context.mailbox, self._context.channel
        if mailbox is None or channel is None or channel.is_closed:
            return
        channel.post(wire.Drained())
        await self._within_grace(mailbox.flush())
        self._context.close_channel()

    async def _end_main(self) -> None:
        main = self._context.main
        if main is None:  # a loop of the program's own: it is told as a program without any is
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if main.done():
            return
        if self._context.waits_for_shutdown:
            await self._within_grace(asyncio.wait([main]))
        if not main.done():
            main.cancel()

    async def _within_grace(self, what: Any) -> bool:
        return await _within(what, max(self.deadline - self._loop.time(), 0.0))


async def _within(what: Any, seconds: float) -> bool:
    """Whether `what` was over within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await what
    except TimeoutError:
        return False
    return True
