"""A pool that is run as a service: signals, log lines, counts, exit status.

This is all of `everycore serve` between the parsed options and the exit status. Invariant: nothing here
decides about workers, nor about stopping (`core.stopping` does).

Exit status: 0, stopped as asked, even if the grace ran out and work was cut off; 1, a signal ended it at
once, or the workers could not listen; 3, the application could not start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

import msgspec

from everycore.aio import signals
from everycore.aio.pausing import PausableLoop
from everycore.aio.shutdown import Shutdown, set_shutdown
from everycore.core import stopping
from everycore.errors import BootError
from everycore.events import Message, Ready
from everycore.model import Snapshot
from everycore.ops.announcing import Announcer
from everycore.ops.job import STATUS_FAILED, STATUS_NO_BOOT, STATUS_STOPPED, BootReport, read_report
from everycore.pool import Pool
from everycore.system import garbage
from everycore.system.addresses import as_url
from everycore.system.ended import wait_for_end
from everycore.system.processes import reap_strangers

if TYPE_CHECKING:  # only --reload imports what watches files
    from everycore.ops.development import Development

log = logging.getLogger("everycore.ops")

#: The least time between two lines of counts, in seconds.
COUNT_INTERVAL = 0.5
#: How soon to reap again after the end of a worker, which its driver reaps, hid that of a stranger, in
#: seconds.
REAP_AGAIN = 0.05
#: How long SIGQUIT waits for the stacks of one worker, and of all, in seconds.
STACKS_OF_ONE = 1.0
STACKS_OF_ALL = 5.0


class Outcome(msgspec.Struct, frozen=True):
    """The exit status and, if it is not 0, a text for the user."""

    status: int
    text: str = ""


def run_service(
    pool: Pool,
    name: str,
    counts: TextIO | None = None,
    stop_delay: float = 0.0,
    scheme: str = "http",
    development: Development | None = None,
) -> Outcome:
    """Run the pool until it is told to stop.

    `name` is what is served. `counts`: where to print how many connections each worker took. `stop_delay`:
    how long to serve on after the signal, in seconds. `scheme`: that of the addresses in the log.
    `development`: what reloads the service when files change; there is no stop delay then.
    """
    return run_to_the_end(Service(pool, name, counts, stop_delay, scheme, development))


def run_to_the_end(service: Service) -> Outcome:
    """Run the service in a loop of its own. From its end on, the signals that stop it are ignored."""
    garbage.collect_again()
    try:
        with asyncio.Runner(loop_factory=PausableLoop) as runner, closing(service):
            return runner.run(service.run())
    except asyncio.CancelledError:
        return Outcome(STATUS_FAILED, service.cut_short)


class Service:
    """One run of a pool: its signals, its log, and its end. `ops.program` has a subclass."""

    def __init__(
        self,
        pool: Pool,
        name: str,
        counts: TextIO | None,
        stop_delay: float = 0.0,
        scheme: str = "http",
        development: Development | None = None,
    ) -> None:
        self._development = development
        self._stop_delay = stop_delay if development is None else 0.0
        self._scheme = scheme
        self._pool = pool
        self._name = name
        self._counts = counts
        self._reports: dict[int, BootReport] = {}
        self._told: BootReport | None = None
        #: The error that ended the service, because it holds for every worker.
        self._final: BootReport | None = None
        self._was_ready = False
        #: Whether a signal has stopped the service.
        self._was_told = False
        self._were_all_ready = False
        self._announcer = Announcer(pool, name)
        #: Why workers were killed before they had finished their work.
        self.cut_short = "killed by a second signal before the work at hand was finished"

    async def run(self) -> Outcome:
        self._pool.cluster.on(Message, self._on_message)
        self._pool.cluster.on(Ready, self._on_ready)
        self._hear_signals()
        with self._orphans():
            async with self._reloading(), self._pool:
                self._announcer.begin()
                counter = asyncio.create_task(self._show_counts()) if self._counts else None
                try:
                    await self._pool.wait()
                except BootError as error:
                    return self._why(error)
                finally:
                    self._announcer.stopping()
                    if counter is not None:
                        counter.cancel()
        if self._final is not None:
            return self._refusal(self._final)
        log.info("stopped")
        return Outcome(STATUS_STOPPED)

    def _reloading(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._development is None else self._development.reloading(self._pool)

    def close(self) -> None:
        """The service has ended, in whatever way."""
        self._announcer.close()

    # Signals

    def _hear_signals(self) -> None:
        """Handle the signals, from the opening of the pool to its end."""
        task = asyncio.current_task()
        assert task is not None
        hooks = {stopping.StopAction.TELL: self._tell_stop, stopping.StopAction.DUMP: self._dump_stacks}
        loop = asyncio.get_running_loop()
        delay = self._stop_delay
        set_shutdown(Shutdown(loop, task, stopping.COMMAND, hooks, is_last=True, delay=delay))

    def _tell_stop(self, number: signal.Signals) -> None:
        self._was_told = True
        self._announcer.stopping()
        again = "another SIGINT" if number is signal.SIGINT else "SIGINT"
        if self._development is not None and number is signal.SIGINT:
            log.info("SIGINT: stopping")
            self._development.end()
            return
        if self._stop_delay > 0:
            log.info(
                "%s: stopping in %g s (--stop-delay), and serving until then; %s ends everything at once",
                number.name,
                self._stop_delay,
                again,
            )
        else:
            log.info("%s: finishing the work at hand; %s ends everything at once", number.name, again)
        if number is signal.SIGINT:
            # TERM comes from a service manager, and spares the clients. A person who presses Ctrl-C is
            # waiting.
            self._pool.cluster._ending.close_idle()

    def _dump_stacks(self, number: signal.Signals) -> None:
        """Make one worker after the other print its stacks: at the same time, their lines would mix.

        The loop does not run meanwhile. It would see dead workers, and replace them.
        """
        self.cut_short = "ended at once by SIGQUIT; the stacks of the workers are above"
        log.info("%s: ending at once, after the stacks of %d workers", number.name, len(self._pool.workers))
        left = STACKS_OF_ALL
        for worker in self._pool.workers.values():
            if worker.pid is not None:
                begun = time.monotonic()
                log.warning("worker %d (pid %d) is ending; its stacks:", worker.id, worker.pid)
                worker.kill(signal.SIGQUIT)
                wait_for_end(worker.pid, min(STACKS_OF_ONE, left))
                left = max(left - (time.monotonic() - begun), 0.0)

    # Strangers

    @contextmanager
    def _orphans(self) -> Iterator[None]:
        """Reap processes that are adopted: by PID 1 in a container all orphans, with molds some."""
        if os.getpid() != 1 and not self._pool.cluster.settings.preload:
            yield
            return
        loop = asyncio.get_running_loop()
        previous = signals.install(loop, {signal.SIGCHLD: self._reap})
        try:
            yield
        finally:
            signals.restore(loop, previous)

    def _reap(self) -> None:
        cluster = self._pool.cluster
        ours = {worker.pid for worker in cluster.workers.values() if worker.pid is not None}
        molds = cluster._molds
        if molds is not None:
            ours |= molds.pids() | cluster._runtime.helpers
        if (molds is not None and molds.is_adopting) or not reap_strangers(ours):
            asyncio.get_running_loop().call_later(REAP_AGAIN, self._reap)

    # Messages and events of workers

    def _on_ready(self, _: Ready) -> None:
        self._told = None
        if not self._was_ready:
            self._was_ready = True
            self._say_where()
        ready = sum(worker.is_ready for worker in self._pool.workers.values())
        if ready == self._pool.size and not self._were_all_ready:
            self._were_all_ready = True
            log.info("ready: all %d workers", ready)

    def _say_where(self) -> None:
        addresses = dict.fromkeys(
            as_url(listener.address, self._scheme) for listener in self._pool.cluster.snapshot().listeners
        )
        log.info("serving %s on %s", self._name, ", ".join(addresses))

    def _on_message(self, event: Message) -> None:
        if event.handle is not None:  # the primary has received it, and has no use for it
            event.handle.close()
        report = read_report(event.message)
        if report is None:
            return
        if not self._was_ready:  # the report that the service ends with is among the first ones
            self._reports[event.worker.id] = report
        if self._pool.size == 0:
            return  # the stop has cut the start short
        if report.is_final and self._development is None:
            self._final = report
            self._pool.stop()
            return
        if event.worker.slot in self._pool._keeper.failed_slots and report == self._told:
            return
        if self._was_ready or self._development:  # otherwise the pool gives up, and `_why` tells the reason
            text = "for the same reason as before" if report == self._told else report.text
            log.error("worker %d could not start the application: %s", event.worker.id, text)
            self._told = report

    def _why(self, error: BootError) -> Outcome:
        if self._was_ready:  # all slots have failed
            return Outcome(STATUS_NO_BOOT, error.report)
        report = self._report_of(error) or BootReport(error.report, STATUS_NO_BOOT)
        return self._refusal(self._final or report)

    def _report_of(self, error: BootError) -> BootReport | None:
        """The worker's own report of why it could not start."""
        return self._reports.get(error.worker)

    def _refusal(self, report: BootReport) -> Outcome:
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
        """Print the line. Returns False if the reader is gone, as with `| head`: the service goes on."""
        try:
            assert self._counts is not None
            self._counts.write(line + "\n")
            self._counts.flush()
        except (OSError, ValueError):
            return False
        return True


def counts_line(snapshot: Snapshot) -> str:
    """The line that tells how many connections each worker took."""
    workers = sorted(snapshot.workers, key=lambda worker: worker.slot)
    counts = "  ".join(f"worker {worker.id}: {worker.handed_over}" for worker in workers)
    return f"connections  {counts}"
