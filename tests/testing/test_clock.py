"""The loop in which waiting takes no time."""

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from everycore.errors import ConfigurationError
from everycore.testing import VirtualTimeLoop, run, settle
from tests.kit import pass_time, turn

HOUR = 3600.0


def test_waiting_takes_no_time_and_timers_come_in_their_order():
    async def main() -> list[str]:
        heard: list[str] = []
        loop = asyncio.get_running_loop()
        loop.call_later(2 * HOUR, heard.append, "second")
        loop.call_later(HOUR, heard.append, "first")
        await pass_time(1.5 * HOUR)
        assert heard == ["first"]
        await pass_time(HOUR)
        assert loop.time() == pytest.approx(2.5 * HOUR)
        return heard

    began = time.monotonic()
    assert run(main(), limit=3 * HOUR) == ["first", "second"]
    assert time.monotonic() - began < HOUR


def test_time_stands_still_while_a_pipe_has_something_to_read():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        heard: list[float] = []
        rounds = 100

        def answer() -> None:
            os.read(read, 1)
            heard.append(loop.time())
            if len(heard) < rounds:
                os.write(write, b"x")

        loop.add_reader(read, answer)
        loop.call_later(1, heard.append, -1.0)
        os.write(write, b"x")
        await pass_time(2)
        loop.remove_reader(read)
        os.close(read)
        os.close(write)
        assert heard == [0.0] * rounds + [-1.0]

    run(main())


def test_a_thread_is_waited_for_and_takes_no_time():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        may_end = threading.Event()
        working = asyncio.ensure_future(asyncio.to_thread(may_end.wait))
        late = asyncio.ensure_future(pass_time(HOUR))
        for _ in range(3):
            await turn()
        threading.Timer(0.01, may_end.set).start()
        assert await working
        assert loop.time() == 0
        assert not late.done()
        await late
        assert loop.time() == HOUR

    run(main(), limit=2 * HOUR)


def test_the_end_waits_for_threads_and_takes_no_time():
    """From Python 3.12 on a loop gives them 300 seconds, and then warns: a failure here."""
    may_end = threading.Event()

    async def main() -> None:
        executor = ThreadPoolExecutor()
        asyncio.get_running_loop().set_default_executor(executor)
        executor.submit(may_end.wait)  # not through the loop, which does not know of it
        threading.Timer(0.01, may_end.set).start()

    run(main())
    assert may_end.is_set()


def test_settle_returns_when_nothing_happens_any_more_and_before_time_passes():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard: list[int] = []

        async def count() -> None:
            for number in range(50):
                await turn()
                heard.append(number)
            await pass_time(1)
            heard.append(-1)

        counting = asyncio.ensure_future(count())
        await asyncio.gather(settle(), settle())
        assert heard == list(range(50))
        assert loop.time() == 0
        await counting

    run(main())


def test_settle_is_refused_where_time_is_real():
    with pytest.raises(RuntimeError, match="VirtualTimeLoop"):
        asyncio.run(settle())


def test_what_waits_for_ever_is_an_error_at_once():
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="within 3600 s of virtual time"):
        run(main())


def test_a_timeout_of_the_program_is_its_own():
    async def main() -> None:
        async with asyncio.timeout(5):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError) as caught:
        run(main())
    assert str(caught.value) == ""


def test_the_limit_is_a_number_of_seconds():
    async def main() -> None:
        """This never begins."""

    coroutine = main()
    with pytest.raises(ConfigurationError, match="limit"):
        run(coroutine, limit=-1)
    coroutine.close()


def test_dates_go_with_the_clock():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        began = loop.date
        await pass_time(60)
        assert loop.date - began == pytest.approx(60)

    run(main())
