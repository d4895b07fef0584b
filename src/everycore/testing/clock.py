"""An event loop in which waiting takes no time.

Invariant: the loop's time stands still while anything can happen in this process, and jumps to the next
timer when nothing can. (trio's `MockClock` with `autojump_threshold=0` does the same.) The loop does not wait
for anything outside the process, such as a child or a peer on the network.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

from everycore.aio import waiting
from everycore.settings import check_seconds

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Selector(selectors.EpollSelector):
    """A selector that advances the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.threads = 0
        self.settling: list[asyncio.Future[None]] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As any selector's, but really wait only for threads, or if no timer is set."""
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.threads:
            return super().select(None)
        if self.settling:
            self._settled()
            return []
        if timeout is None:
            return super().select(None)
        self.time += timeout
        return []

    def _settled(self) -> None:
        settling, self.settling = self.settling, []
        for future in settling:
            waiting.settle(future, None)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop with a clock of its own, which begins at 0 and jumps over every wait.

    Use it with `asyncio.Runner(loop_factory=VirtualTimeLoop)`, and with pytest plugins that take a loop
    factory. `asyncio.sleep`, `asyncio.timeout` and all timers go by its clock. While a thread works for the
    loop (`asyncio.to_thread`, a name look-up) the clock stands still, and the loop really waits.
    """

    def __init__(self) -> None:
        self._clock = _Selector()
        self._began_at = time.time()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the loop's time, in seconds."""
        return self._clock.time

    @property
    def date(self) -> float:
        """The loop's time as a date, in seconds since the epoch."""
        return self._began_at + self._clock.time

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As any loop's; the clock stands still meanwhile."""
        future = super().run_in_executor(executor, func, *args)
        self._clock.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        """As any loop's; the clock stands still until the threads have ended.

        From Python 3.12 on `asyncio.Runner` gives the threads 300 seconds. In virtual time these would be
        over at once, because a thread waits for the others, not this loop.
        """
        self._clock.threads += 1
        try:
            await super().shutdown_default_executor(*args, **options)
        finally:
            self._clock.threads -= 1

    def _thread_ended(self, _: asyncio.Future[Any]) -> None:
        self._clock.threads -= 1

    async def settle(self) -> None:
        """As the module's function `settle`."""
        future = self.create_future()
        self._clock.settling.append(future)
        await future


async def settle() -> None:
    """Return when nothing more can happen before time passes. By then every message sent has been received.

    Raises: RuntimeError on any other loop than a `VirtualTimeLoop`.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualTimeLoop):
        raise RuntimeError(  # noqa: TRY004 - the wrong thing is the running loop, not an argument
            "settle() needs a VirtualTimeLoop: run the test by everycore.testing.run()"
        )
    await loop.settle()


def run(main: Coroutine[Any, Any, T], *, limit: float = 3600.0) -> T:
    """As `asyncio.run(main)`, in a `VirtualTimeLoop`. Returns the result of `main`.

    limit: seconds of virtual time. A test that waits for something that never comes reaches them at once.

    Raises: TimeoutError when the limit is over; the errors of `main`.
    """
    check_seconds("limit", limit)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_within(main, limit))


async def _within(main: Coroutine[Any, Any, T], limit: float) -> T:
    scope = asyncio.timeout(limit)
    try:
        async with scope:
            return await main
    except TimeoutError as error:
        if scope.expired():
            raise TimeoutError(f"the test has not ended within {limit:g} s of virtual time") from error
        raise
