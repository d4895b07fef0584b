"""How a worker ends: the steps, in order.

The worker's loop runs the steps. They run once, whoever asked (the primary, the program, a signal, or the
loss of the primary), and they end within the grace.

1. the worker leaves the rotation (the primary takes its belts back), and `wait_shutdown()` returns;
2. the servers whose listeners came from the primary close;
3. the count of open connections reaches 0, or the grace ends and the remaining connections are aborted;
4. the worker sends `Drained`, and the channel closes;
5. the main task is cancelled; `everycore.run` swallows the cancellation. A main task that has called
   `wait_shutdown()` may return by itself until the grace is over.
"""

from __future__ import annotations

import asyncio
import os
import signal
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from everycore.system.board import WorkerBoard
    from everycore.worker.connections.ledger import Ledger
    from everycore.worker.connections.reception import Receptions

#: How long the protocols have after an abort to receive `connection_lost`, in seconds.
ABORT_TIME: Final = 0.1
#: How often to check connections that do not report their own end, in seconds.
LOOK: Final = 0.02

#: How long a program may take to end its server before its own shutdown begins, in seconds. It is less than
#: the margin after which the primary kills.
SERVER_END: Final = 0.5
#: Turns of the loop in which the worker takes what the primary sent before it knew that this worker leaves.
#: In them a connection that another worker has handed on is read, given to its server, and counted.
_ARRIVALS: Final = 8

Goodbye = Callable[[], Awaitable[None]]


class Departure:
    """The end of this worker: not asked for yet, under way, or done.

    shutdown_timeout: the least time that the program has for its own shutdown, in seconds.
    """

    def __init__(
        self, connections: Ledger, board: WorkerBoard, receptions: Receptions, shutdown_timeout: float
    ) -> None:
        self._connections = connections
        self._board = board
        self._receptions = receptions
        self._shutdown_timeout = shutdown_timeout
        self._servers: weakref.WeakSet[Any] = weakref.WeakSet()
        #: The exit status, if it is not to be the program's own.
        self.exit_code: int | None = None
        self._main: asyncio.Task[Any] | None = None
        self._is_asked = asyncio.Event()
        self._is_awaited = False
        self._is_over = asyncio.Event()
        self._deadline = 0.0
        self._steps: asyncio.Task[None] | None = None
        #: Whether idle clients are given time for one more request.
        self.spares_idle = True

    # --- what it ends -------------------------------------------------------------------------------------

    @property
    def has_main(self) -> bool:
        """Whether `everycore.run` runs a main task in this worker."""
        return self._main is not None

    def watch_main(self, main: asyncio.Task[Any]) -> None:
        """Remember the main task: it ends last."""
        self._main = main

    def watch_server(self, server: Any) -> None:
        """Remember a server that is to be closed."""
        self._servers.add(server)

    # --- waiting for it -----------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether the worker is leaving, or has left."""
        return self._steps is not None

    async def asked(self) -> None:
        """Wait until this worker is to leave. A main task that calls this ends by returning from it."""
        self._is_awaited = True
        await self._is_asked.wait()

    @property
    def deadline(self) -> float:
        """When the grace ends, by the loop's clock; 0 before the departure has begun."""
        return self._deadline

    async def over(self) -> None:
        """Wait for the last step."""
        await self._is_over.wait()

    # --- its beginning ------------------------------------------------------------------------------------

    def begin(self, loop: asyncio.AbstractEventLoop, grace: float, goodbye: Goodbye) -> None:
        """Leave within `grace` seconds. Does nothing if the worker is leaving already.

        `goodbye` sends the last message to the primary and closes the channel, even if it is cancelled.
        """
        if self._steps is None:
            self._board.serving(False)
            self._deadline = loop.time() + grace
            self._steps = loop.create_task(self._run(loop, goodbye))
            self._is_asked.set()

    def tell_program(self, loop: asyncio.AbstractEventLoop, grace: float) -> None:
        """Pass the request to the program as SIGTERM, which is how a lone process is asked to leave.

        The signal is sent at once, or, if the program waits in `wait_shutdown()`, when the grace is over.
        """
        self._is_asked.set()
        loop.call_later(grace if self._is_awaited else 0.0, os.kill, os.getpid(), signal.SIGTERM)

    # --- the steps ----------------------------------------------------------------------------------------

    async def _run(self, loop: asyncio.AbstractEventLoop, goodbye: Goodbye) -> None:
        def left() -> float:
            return max(self._deadline - loop.time(), 0.0)

        try:
            self._close_servers()
            await _turns(_ARRIVALS)
            if not await _within(self._none_open(), left()):
                self._connections.abort()
                await _within(self._none_open(), ABORT_TIME)
            await _within(goodbye(), left())
            # The program's own shutdown has the rest of the grace, or its own time-out if that is longer.
            own = self._shutdown_timeout + SERVER_END if self._shutdown_timeout else 0.0
            await self._end_main(lambda: max(left(), own))
        finally:
            self._is_over.set()

    def _close_servers(self) -> None:
        """Take what lies on the belts, then close the servers.

        A connection that is still on a belt was left there because no other worker could take it.
        """
        self._receptions.take_all()
        for server in tuple(self._servers):
            leave = getattr(server, "leave", server.close)  # another library's server can only be closed
            leave()

    async def _none_open(self) -> None:
        """Return when no connection is open. Most connections report their end; the others are polled."""
        while True:
            told = asyncio.Event()
            self._connections.when_none(told.set)
            await told.wait()
            if not self._connections.open:
                return
            await asyncio.sleep(LOOK)

    async def _end_main(self, left: Callable[[], float]) -> None:
        main = self._main
        if main is None:  # the program runs its own loop: it gets SIGTERM, like a program without a loop
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if main.done():
            return
        if self._is_awaited:
            await _within(asyncio.wait([main]), left())
        if not main.done():
            main.cancel()


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _within(what: Awaitable[Any], seconds: float) -> bool:
    """Await `what`. Returns whether it ended within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await what
    except TimeoutError:
        return False
    return True
