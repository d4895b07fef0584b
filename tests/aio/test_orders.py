"""Signals that command a pool: what each does, with a pool that records its orders."""

import asyncio
import logging
import os
import signal
import threading

import pytest

from everycore.aio import orders
from everycore.core.signals import Signal
from everycore.system import pausing
from tests.kit import turn

HEARD = [signal.Signals[one.value] for one in Signal if one is not Signal.WINCH]


class Pool:
    def __init__(self, size=2):
        self.size = size
        self.told = []

    def order_reload(self):
        self.told.append("reload")

    def scale(self, count):
        self.told.append(("scale", count))

    def stop(self):
        self.told.append("stop")

    def reopen_logs(self):
        self.told.append("reopen")

    def pause(self):
        self.told.append("pause")

    def resume(self):
        self.told.append("resume")


@pytest.fixture
def surroundings(monkeypatch):
    """There is no terminal, and a stop of this process is only recorded."""
    stops = []
    monkeypatch.setattr(orders, "has_terminal", lambda: False)
    monkeypatch.setattr(pausing, "stop", lambda: stops.append("stopped"))
    return stops


async def tell(pool, *numbers):
    """Raise the signals, one right after the other. Returns what they did."""
    with orders.obey_signals(asyncio.get_running_loop(), pool):
        await send(*numbers)
    return pool.told


async def send(*numbers):
    """Send the signals. Returns when they were handled, with what they put off to the loop's next turn."""
    loop = asyncio.get_running_loop()
    last = loop.create_future()
    loop.add_signal_handler(signal.SIGALRM, last.set_result, None)
    for number in (*numbers, signal.SIGALRM):
        os.kill(os.getpid(), number)
    await last
    loop.remove_signal_handler(signal.SIGALRM)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGHUP, ["reload"]),
        (signal.SIGUSR1, ["reopen"]),
        (signal.SIGUSR2, []),
        (signal.SIGTTIN, [("scale", 3)]),
        (signal.SIGTTOU, [("scale", 1)]),
        (signal.SIGWINCH, []),
        (signal.SIGCONT, ["resume"]),
        (signal.SIGTSTP, ["pause", "resume"]),
    ],
)
async def test_what_a_signal_does(surroundings, number, told):
    assert await tell(Pool(), number) == told
    assert surroundings == (["stopped"] if number == signal.SIGTSTP else [])


async def test_usr2_is_reserved_and_says_so(surroundings, caplog):
    with caplog.at_level(logging.INFO):
        await tell(Pool(), signal.SIGUSR2)
    assert "SIGUSR2: ignored, it does nothing yet; SIGHUP reloads" in caplog.text


async def test_the_primary_opens_its_own_log_files_anew(surroundings, tmp_path):
    logger = logging.getLogger("tests.orders")
    handler = logging.FileHandler(tmp_path / "log")
    logger.addHandler(handler)
    try:
        (tmp_path / "log").rename(tmp_path / "log.1")
        await tell(Pool(), signal.SIGUSR1)
        logger.warning("after")
        assert (tmp_path / "log").read_text() == "after\n"
    finally:
        logger.removeHandler(handler)
        handler.close()


async def test_while_the_workers_are_being_stopped_there_is_nothing_to_reload(surroundings, caplog):
    with caplog.at_level(logging.INFO):
        assert await tell(Pool(size=0), signal.SIGHUP, signal.SIGTTIN) == []
    assert "SIGHUP: ignored, the workers are being stopped" in caplog.text
    assert "SIGTTIN: ignored, the workers are being stopped" in caplog.text


async def test_workers_that_finish_stop_and_go_on_too(surroundings):
    assert await tell(Pool(size=0), signal.SIGTSTP) == ["pause", "resume"]


async def test_a_primary_that_was_told_to_go_on_after_all_is_not_stopped(surroundings):
    assert await tell(Pool(), signal.SIGTSTP, signal.SIGCONT) == ["resume"]
    assert surroundings == []


async def test_twice_is_once(surroundings):
    await tell(Pool(), signal.SIGTSTP, signal.SIGTSTP)
    assert surroundings == ["stopped"]


async def test_a_block_that_is_left_before_the_stop_stops_no_process(surroundings):
    pool = Pool()
    loop = asyncio.get_running_loop()
    heard = loop.create_future()
    loop.add_signal_handler(signal.SIGALRM, heard.set_result, None)
    with orders.obey_signals(loop, pool):
        # Both are heard in one turn; this task goes on at the beginning of the next one.
        os.kill(os.getpid(), signal.SIGALRM)
        os.kill(os.getpid(), signal.SIGTSTP)
        await heard
    loop.remove_signal_handler(signal.SIGALRM)
    await turn()
    assert (pool.told, surroundings) == ([], [])


async def test_workers_go_on_if_the_primary_cannot_stop(surroundings, monkeypatch):
    def refuse():
        raise PermissionError

    monkeypatch.setattr(pausing, "stop", refuse)
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    assert await tell(Pool(), signal.SIGTSTP) == ["pause", "resume"]
    assert [type(error) for error in told] == [PermissionError]


async def test_process_1_of_a_container_stops_no_process(surroundings, monkeypatch, caplog):
    monkeypatch.setattr(pausing, "can_stop", lambda: False)
    assert await tell(Pool(), signal.SIGTSTP) == []
    assert "SIGTSTP: ignored, since the kernel does not stop process 1" in caplog.text


@pytest.mark.parametrize("number", HEARD)
async def test_what_was_ignored_stays_ignored(surroundings, number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        pool = Pool()
        with orders.obey_signals(asyncio.get_running_loop(), pool):
            assert signal.getsignal(number) is signal.SIG_IGN
            await send(number)
        assert pool.told == []
    finally:
        signal.signal(number, before)


async def test_handlers_are_those_from_before_afterwards(surroundings):
    before = [signal.getsignal(number) for number in HEARD]
    with orders.obey_signals(asyncio.get_running_loop(), Pool()):
        assert signal.SIG_DFL not in [signal.getsignal(number) for number in HEARD]
    assert [signal.getsignal(number) for number in HEARD] == before


async def test_at_a_terminal_the_signals_of_job_control_are_the_systems(surroundings, monkeypatch):
    monkeypatch.setattr(orders, "has_terminal", lambda: True)
    with orders.obey_signals(asyncio.get_running_loop(), Pool()):
        assert signal.getsignal(signal.SIGTTIN) is signal.getsignal(signal.SIGTTOU) is signal.SIG_DFL


def test_another_thread_than_the_main_one_has_no_signals(surroundings):
    failures = []

    async def open_and_leave():
        with orders.obey_signals(asyncio.get_running_loop(), Pool()):
            pass

    def work():
        try:
            asyncio.run(open_and_leave())
        except BaseException as error:
            failures.append(error)

    before = [signal.getsignal(number) for number in HEARD]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert [signal.getsignal(number) for number in HEARD] == before
