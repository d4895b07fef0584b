"""Where a suspended task waits."""

import asyncio
import contextlib

from everycore.servers.whereabouts import whereabouts
from tests.kit import turn


async def inner(gate):
    await gate.wait()  # here it waits


async def generator(gate):
    await inner(gate)
    yield


async def outer(gate):
    async for _ in generator(gate):
        pass


async def test_every_frame_down_to_the_one_that_waits():
    gate = asyncio.Event()
    task = asyncio.ensure_future(outer(gate))
    await turn()
    lines = whereabouts(task).splitlines()
    names = [line.rpartition(" in ")[2] for line in lines if line.startswith("  File")]
    assert names[:3] == ["outer", "generator", "inner"]
    assert "    await gate.wait()  # here it waits" in lines
    gate.set()
    await task


@contextlib.asynccontextmanager
async def lifespan(gate):
    yield
    await inner(gate)


async def test_the_end_of_a_context_manager_as_applications_have_it():
    async def use():
        async with lifespan(gate):
            pass

    gate = asyncio.Event()
    task = asyncio.ensure_future(use())
    await turn()
    assert "in lifespan" in whereabouts(task)
    gate.set()
    await task


async def test_a_task_that_has_ended_waits_nowhere():
    task = asyncio.ensure_future(turn())
    await task
    assert whereabouts(task) == "  (not in Python code)"
