"""A pool run as a program: signals, log lines, counts, exit status.

Job: everything of `everycore serve` between the options, once they are read, and the exit status. Invariant:
nothing here decides about workers. The first INT or TERM stops the pool, the second kills it. Must not import
cli or servers.

Exit status: 0, stopped as asked, even if work outlasted the grace and was cut short, for that was asked too;
1, a second signal cut it short, or the workers could not listen; 3, the application could not start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from everycore.core.stopping import StopRequests
from everycore.errors import BootError
from everycore.events import Message, Ready
from everycore.model import Snapshot
from everycore.ops.addresses import as_url
from everycore.ops.job import STATUS_FAILED, STATUS_NO_BOOT, STATUS_STOPPED, BootReport, read_report
from everycore.pool import Pool
from everycore.system import inherited
from everycore.system.processes import reap_strangers

_logger = logging.getLogger("everycore")

#: The least time between two lines of counts.
COUNT_INTERVAL = 0.5
#: A worker's end, which its own driver learns of, stood before a stranger's: look again after, in seconds.
REAP_AGAIN = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit status and, if it is not 0, what to tell the user."""

    status: int
    text: str = ""


def run_service(pool: Pool, name: str, counts: TextIO | None = None) -> Outcome:
    """Run the pool until it is told to stop.

    `name` is what is served; `counts`, where to show which worker took how many connections.
    """
    try:
        return asyncio.run(Service(pool, name, counts).run())
    except asyncio.CancelledError:
        return Outcome(STATUS_FAILED, "killed by a second signal before the work at hand was done")


class Service:
    """One run of a pool: its signals, what it tells, and how it ends. `ops.program` is another kind of it."""

    def __init__(self, pool: Pool, name: str, counts: TextIO | None) -> None:
        self._pool = pool
        self._name = name
        self._counts = counts
        self._reports: dict[int, BootReport] = {}
        self._told: BootReport | None = None
        self._was_ready = False
        self._were_all_ready = False

    async def run(self) -> Outcome:
        self._pool.cluster.on(Message, self._on_message)
        self._pool.cluster.on(Ready, self._on_ready)
        with self._signals(), self._orphans():
            async with self._pool:
                counter = asyncio.create_task(self._show_counts()) if self._counts else None
                try:
                    await self._pool.wait()
                except BootError as error:
                    return self._why(error)
                finally:
                    if counter is not None:
                        counter.cancel()
        _logger.info("stopped")
        return Outcome(STATUS_STOPPED)

    # Signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        requests = StopRequests()

        def on_signal(number: signal.Signals) -> None:
            match requests.take(number, loop.time()):
                case 1:
                    _logger.info("%s: finishing the work at hand; once more ends it at once", number.name)
                    self._pool.stop()
                case 2:
                    task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal, number)
        inherited.hear((signal.SIGINT, signal.SIGTERM))
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    # Strangers

    @contextmanager
    def _orphans(self) -> Iterator[None]:
        """As PID 1, in a container: every orphan of the container becomes our child, and a zombie if left."""
        if os.getpid() != 1:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        inherited.hear((signal.SIGCHLD,))
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGCHLD)

    def _reap(self) -> None:
        ours = {worker.pid for worker in self._pool.cluster.workers.values() if worker.pid is not None}
        if not reap_strangers(ours):
            asyncio.get_running_loop().call_later(REAP_AGAIN, self._reap)

    # What workers tell

    def _on_ready(self, _: Ready) -> None:
        if not self._was_ready:
            self._was_ready = True
            self._say_where()
        ready = sum(worker.is_ready for worker in self._pool.workers.values())
        if ready == self._pool.size and not self._were_all_ready:
            self._were_all_ready = True
            _logger.info("ready: all %d workers", ready)

    def _say_where(self) -> None:
        addresses = dict.fromkeys(
            as_url(listener.address) for listener in self._pool.cluster.snapshot().listeners
        )
        _logger.info("serving %s on %s", self._name, ", ".join(addresses))

    def _on_message(self, event: Message) -> None:
        if event.handle is not None:  # we are its taker, and nobody here has a use for it
            event.handle.close()
        report = read_report(event.message)
        if report is None:
            return
        self._reports[event.worker.id] = report
        if self._was_ready:  # else the pool gives up, and `_why` has the word
            text = "as before" if report == self._told else report.text
            _logger.error("worker %d could not start the application: %s", event.worker.id, text)
            self._told = report

    def _why(self, error: BootError) -> Outcome:
        report = self._reports.get(error.worker) or BootReport(error.report, STATUS_NO_BOOT)
        start = f"cannot start {self._name}:\n" if "\n" in report.text else ""
        return Outcome(report.status, f"{start}{report.text}")

    # Counts

    async def _show_counts(self) -> None:
        shown = ""
        while True:
            await asyncio.sleep(COUNT_INTERVAL)
            snapshot = self._pool.cluster.snapshot()
            line = counts_line(snapshot)
            if line == shown or not any(worker.handed_over for worker in snapshot.workers):
                continue
            if not self._show(line):
                return
            shown = line

    def _show(self, line: str) -> bool:
        """False once nobody can read it any more, as with `| head`: no reason to stop serving."""
        try:
            assert self._counts is not None
            self._counts.write(line + "\n")
            self._counts.flush()
        except (OSError, ValueError):
            return False
        return True


def counts_line(snapshot: Snapshot) -> str:
    """Which worker took how many connections."""
    workers = sorted(snapshot.workers, key=lambda worker: worker.slot)
    counts = "  ".join(f"worker {worker.id}: {worker.handed_over}" for worker in workers)
    return f"connections  {counts}"
