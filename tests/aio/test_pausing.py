"""A loop whose clock stands still while its process is stopped."""

import asyncio
import contextlib
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

import everycore
from everycore.aio import orders, pausing
from everycore.aio.pausing import PausableLoop
from everycore.ops.service import run_to_the_end
from tests.kit import turn


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch):
    """The time of the system's clock."""
    monkeypatch.setattr(pausing, "_now", lambda: Clock.now)
    return Clock()


def run(main):
    with asyncio.Runner(loop_factory=PausableLoop) as runner:
        runner.run(main)


#: A pool that does nothing at a signal but go on.
Nobody: Any = SimpleNamespace(size=1, resume=lambda: None)


def running_loop() -> PausableLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PausableLoop)
    return loop


def test_no_time_passes_during_a_stop(clock):
    async def main():
        loop = running_loop()
        Clock.now += 1
        before = loop.time()
        Clock.now += 600
        loop.stand_still()
        assert loop.time() == before
        Clock.now += 2
        assert loop.time() == before + 2

    run(main())


def test_a_timer_is_due_so_much_later(clock):
    async def main():
        loop = running_loop()
        rung: list[str] = []
        loop.call_later(10, rung.append, "rung")
        Clock.now += 600
        loop.stand_still()
        await turn(3)
        assert rung == []
        Clock.now += 10
        await turn(3)
        assert rung == ["rung"]

    run(main())


def test_a_stop_without_asking_is_noticed_at_sigcont(clock):
    """SIGSTOP, a debugger: messages that came meanwhile are handled before a worker counts as overdue."""

    async def main():
        loop = running_loop()
        rung: list[str] = []
        with orders.obey_signals(loop, Nobody):
            loop.call_later(10, rung.append, "rung")
            Clock.now += 600
            os.kill(os.getpid(), signal.SIGCONT)
            await turn(3)
            assert rung == []
            Clock.now += 10
            await turn(3)
            assert rung == ["rung"]

    run(main())


def test_the_commands_and_a_program_have_such_a_clock():
    """Otherwise workers that were stopped with them for long would be overdue when all go on."""

    class Service:
        cut_short = ""

        async def run(self) -> Any:
            return type(asyncio.get_running_loop())

        def close(self) -> None:
            """Nothing is open."""

    service: Any = Service()
    kind: Any = run_to_the_end(service)
    assert kind is PausableLoop
    with contextlib.closing(everycore.new_event_loop("asyncio")) as loop:
        assert type(loop) is PausableLoop
