"""Runs `async def` tests, each in a fresh event loop, and holds them to structured endings."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


async def turn(times: int = 1) -> None:
    """Lets all that is ready run, `times` over. Never a way to wait for another process."""
    for _ in range(times):
        await asyncio.sleep(0)  # noqa: TID251 - no time passes


def run_test(
    function: Callable[..., Awaitable[None]], arguments: dict[str, Any], loop_factory: LoopFactory | None
) -> None:
    """Runs one test; tasks it leaves pending and errors that reached only the loop make it fail."""
    unhandled: list[dict[str, Any]] = []

    async def body() -> set[asyncio.Task[Any]]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        before = asyncio.all_tasks(loop)
        await function(**arguments)
        # What the test cancelled or let go of in its last step may need a few turns to end.
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
