"""The signals that an event loop handles for everycore."""

import asyncio
import signal
import threading
from typing import Any

import pytest

from everycore.aio import signals

NUMBER = signal.SIGUSR2


@pytest.fixture(autouse=True)
def former():
    """The handler of the signal before and after a test. Returns how often it ran."""
    calls = []
    before = signal.signal(NUMBER, lambda number, _: calls.append(number))
    yield calls
    signal.signal(NUMBER, before)


async def test_a_loop_handles_them_until_they_are_restored(former):
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    previous = signals.install(loop, {NUMBER: heard.set})
    signal.raise_signal(NUMBER)
    await heard.wait()
    assert former == []

    signals.restore(loop, previous)
    signal.raise_signal(NUMBER)
    assert former == [NUMBER]


async def test_one_that_was_blocked_from_outside_is_heard():
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {NUMBER})
    try:
        previous = signals.install(loop, {NUMBER: heard.set})
        signal.raise_signal(NUMBER)
        await heard.wait()
        signals.restore(loop, previous)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_in_another_thread_nothing_is_done():
    former, returned = signal.getsignal(NUMBER), []

    async def main():
        returned.append(signals.install(asyncio.get_running_loop(), {NUMBER: print}))

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join()
    assert returned == [{}]
    assert signal.getsignal(NUMBER) is former


class Interrupted:
    """A loop that gets the signal while its handler is being restored, when nothing else would handle it."""

    def add_signal_handler(self, number, handler):
        signal.signal(number, lambda *_: handler())

    def remove_signal_handler(self, number):
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # to this thread: in others it is not blocked


def test_one_that_comes_while_they_are_restored_goes_to_the_former_handler(former):
    loop: Any = Interrupted()
    signals.restore(loop, signals.install(loop, {NUMBER: print}))
    assert former == [NUMBER]
