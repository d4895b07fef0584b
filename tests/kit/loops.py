"""Runs `async def` tests, each in a fresh event loop, and checks that they end cleanly."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from everycore.testing import VirtualTimeLoop

#: The seconds of virtual time that a test may take: one that waits for ever takes them at once.
VIRTUAL_LIMIT = 3600.0

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


async def turn(times: int = 1) -> None:
    """Let everything that is ready run, `times` over. This never waits for another process."""
    for _ in range(times):
        await asyncio.sleep(0)  # noqa: TID251 - no time passes


async def pass_time(seconds: float) -> None:
    """Let `seconds` of virtual time pass, with everything that is due meanwhile."""
    if not isinstance(asyncio.get_running_loop(), VirtualTimeLoop):
        raise RuntimeError("no time is to pass in this test: give it VirtualTimeLoop as its `loop_factory`")
    await asyncio.sleep(seconds)  # noqa: TID251 - nobody waits


def run_test(
    function: Callable[..., Awaitable[None]], arguments: dict[str, Any], loop_factory: LoopFactory | None
) -> None:
    """Run one test. Pending tasks and errors that only the loop saw make it fail."""
    unhandled: list[dict[str, Any]] = []

    async def body() -> set[asyncio.Task[Any]]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        before = asyncio.all_tasks(loop)
        async with asyncio.timeout(VIRTUAL_LIMIT if isinstance(loop, VirtualTimeLoop) else None):
            await function(**arguments)
        # What the test cancelled or dropped in its last step may need a few turns to end.
        for _ in range(10):
            if not asyncio.all_tasks(loop) - before:
                break
            await turn()
        return asyncio.all_tasks(loop) - before

    with asyncio.Runner(debug=False, loop_factory=loop_factory) as runner:
        pending = runner.run(body())
        left = [repr(task) for task in pending]
    if left:
        pytest.fail("the test left tasks pending:\n  " + "\n  ".join(left))
    if unhandled:
        for context in unhandled:
            if isinstance(error := context.get("exception"), BaseException):
                raise error
        pytest.fail(f"the event loop was told of errors nobody handled:\n  {unhandled}")
