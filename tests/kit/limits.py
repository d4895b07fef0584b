"""Hard time limits.

They have two stages. At the limit a watchdog writes every stack into the test's captured output and
interrupts the main thread with a real-time signal, even in a blocking system call: that test fails, and the
run goes on. If the test still does not end, faulthandler ends it `LAST_WORD` seconds later. faulthandler
needs neither the main thread nor the interpreter lock. It writes the stacks to the real stderr, and the whole
run exits with status 1.

SIGALRM and the interval timers stay free for programs under test.
"""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

DEFAULT = 60.0
LAST_WORD = 15.0
INTERRUPT = signal.SIGRTMAX - 3

_LOADAVG = "/proc/loadavg"
_SLOWNESS = float(os.environ.get("EVERYCORE_TEST_SLOWNESS") or 1)


def scaled(seconds: float) -> float:
    """A time limit as this machine needs it now.

    It is multiplied by the number of processes that compete for each processor, and by
    EVERYCORE_TEST_SLOWNESS (default 1). On an idle machine the limit is exactly `seconds`.
    """
    return seconds * _SLOWNESS * _wanting_each_processor()


def _wanting_each_processor() -> float:
    """At least 1. The last minute's load, or the present one if larger: an average lacks new load."""
    try:
        with open(_LOADAVG, encoding="ascii") as file:
            average, _, _, running, _ = file.read().split()
    except OSError:
        return 1.0
    return max(1.0, max(float(average), int(running.partition("/")[0])) / (os.cpu_count() or 1))


class TimeLimit(threading.Timer):
    """The watchdog's thread. The leak check recognizes it by its type."""


class Watchdog:
    """Watches one test at a time. `last_words` is a descriptor of the real stderr."""

    def __init__(self, last_words: int) -> None:
        self._last_words = last_words
        self._running: str | None = None
        self._seconds = 0.0
        self._before = signal.signal(INTERRUPT, self._interrupted)

    def close(self, *, ends_now: bool) -> None:
        """End the run. If a forgotten thread keeps the interpreter from ending, it is ended in due time.

        ends_now: this process ends next. A process of pytest-xdist instead waits, idle, for as long as the
        others have tests, and is ended by the process that has started it.
        """
        signal.signal(INTERRUPT, self._before)
        if ends_now:
            faulthandler.dump_traceback_later(scaled(LAST_WORD), exit=True, file=self._last_words)

    @contextmanager
    def watch(self, test: str, seconds: float, describe: Callable[[], str]) -> Iterator[None]:
        """Fail the block if it takes longer than `seconds`. `describe()` is printed with the stacks."""
        self._running, self._seconds = test, seconds
        main = threading.get_ident()

        def bark() -> None:
            print(f"\n{test}: still running after {seconds:g} s", file=sys.stderr)
            faulthandler.dump_traceback(2)  # not sys.stderr, which may not be a file under capture
            print(describe(), file=sys.stderr)
            if self._running == test:
                signal.pthread_kill(main, INTERRUPT)

        timer = TimeLimit(seconds, bark)
        timer.daemon = True
        faulthandler.dump_traceback_later(seconds + scaled(LAST_WORD), exit=True, file=self._last_words)
        timer.start()
        try:
            yield
        finally:
            self._running = None
            timer.cancel()
            timer.join()
            faulthandler.cancel_dump_traceback_later()

    def _interrupted(self, signum: int, frame: FrameType | None) -> None:
        if self._running is not None:
            pytest.fail(f"time limit of {self._seconds:g} s exceeded; all stacks are in the captured stderr")


def limit_of(item: pytest.Item) -> float:
    marker = item.get_closest_marker("limit")
    if marker is None:
        return scaled(DEFAULT)
    if len(marker.args) != 1 or marker.kwargs:
        raise pytest.UsageError(f"{item.nodeid}: limit takes one number, the seconds")
    return scaled(float(marker.args[0]))
