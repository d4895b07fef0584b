"""Where the tasks of an event loop wait: tasks at one place are printed once, with all that they wait for."""

import asyncio
import os
import signal
from typing import Any

from everycore.aio.task_stacks import MOST_FRAMES, MOST_PLACES, print_tasks_when_asked, task_lines
from everycore.system.stacks import TASKS
from tests.kit import turn


async def innermost(future):
    await future


async def yielding(future):
    await innermost(future)
    yield


async def outermost(future):
    async for _ in yielding(future):
        pass


async def test_a_crowd_at_one_place_is_told_once_with_all_that_it_waits_for():
    future = asyncio.get_running_loop().create_future()
    crowd = [asyncio.ensure_future(outermost(future)) for _ in range(3)]
    alone = asyncio.ensure_future(innermost(future))
    await turn()
    lines = list(task_lines([alone, *crowd]))
    here = os.getpid()
    assert lines[0] == f"3 tasks wait in the event loop of pid {here} (most recent call first):"
    assert [line.rpartition(" ")[2] for line in lines[1:4]] == ["innermost", "yielding", "outermost"]
    assert all(line.startswith(f'  File "{__file__}", line ') for line in lines[1:4])
    assert lines[4] == f"1 task waits in the event loop of pid {here} (most recent call first):"
    assert len(lines) == 6
    future.set_result(None)
    await asyncio.gather(alone, *crowd)
    assert list(task_lines([])) == []


async def test_what_is_printed_is_bounded():
    namespace: dict[str, Any] = {}
    places = "\n".join(f"async def f{number}(future): await future" for number in range(MOST_PLACES + 5))
    exec(places, namespace)

    async def deep(future, depth):
        await (deep(future, depth - 1) if depth else future)

    future = asyncio.get_running_loop().create_future()
    tasks = [asyncio.ensure_future(namespace[f"f{number}"](future)) for number in range(MOST_PLACES + 5)]
    tasks += [asyncio.ensure_future(deep(future, 100)) for _ in range(2)]
    await turn()
    lines = list(task_lines(tasks))
    assert lines[-1] == "... and others, at 6 places"
    assert len(lines) == MOST_FRAMES + 1 + 2 * (MOST_PLACES - 1) + 1
    future.set_result(None)
    await asyncio.gather(*tasks)


def test_a_loop_that_waits_prints_them_when_it_is_asked():
    """For uvloop's, see tests/cli/test_steering.py."""
    reader, writer = os.pipe()
    before = signal.getsignal(TASKS)
    try:
        print_tasks_when_asked(writer)
        os.kill(os.getpid(), TASKS)  # no loop runs, so there are no tasks

        async def main():
            running = asyncio.get_running_loop()
            told = running.create_future()

            def on_told():
                running.remove_reader(reader)
                told.set_result(None)

            waiting = asyncio.ensure_future(innermost(told))
            await turn()
            running.add_reader(reader, on_told)
            os.kill(os.getpid(), TASKS)
            await waiting

        asyncio.run(main())
        assert b" in innermost\n" in os.read(reader, 65536)
    finally:
        signal.signal(TASKS, before)
        os.close(reader)
        os.close(writer)
