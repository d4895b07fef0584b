"""A pool that runs any program, as a program: what differs from a served application.

Log where the program listens, as it does so, for nobody has told us before. One that listens where we do not
see it (in C, as gRPC does) is looked for, and is ready once its listener is found. One that lets another
program listen, which it has started, is told so, or refused (`core.launchers`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Final

import msgspec

from everycore.core.launchers import Launch, Verdict, remedy
from everycore.errors import BootError
from everycore.events import Exited, Forked, Listening
from everycore.model import Address
from everycore.ops.job import STATUS_NO_BOOT, BootReport
from everycore.ops.service import Outcome, Service, run_to_the_end
from everycore.pool import Pool
from everycore.primary.driver import driver_of
from everycore.system.addresses import as_url
from everycore.system.sightings import (
    command_line,
    descendants_of,
    is_shareable,
    listeners_of,
    sockets_of,
    waits_for_process,
)
from everycore.worker_face import Worker

if TYPE_CHECKING:  # as in `ops.service`
    from everycore.ops.development import Development

log = logging.getLogger("everycore.ops")

#: Seconds from the fork of a worker until its listeners are looked for. After that it is looked for them when
#: it is a quarter older each time, and at least every so many seconds.
_FIRST_LOOK: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
#: Addresses that are told. A program that takes a free port for each of its clients listens on ever new ones.
_MOST_KNOWN: Final = 256


def run_program(
    pool: Pool, name: str, stop_delay: float = 0.0, development: Development | None = None
) -> Outcome:
    """Run the pool until it is told to stop, or every worker has finished. `name` is the program's.

    stop_delay: seconds from the signal until the workers are asked to leave. development: reloads it when
    files change; there is no stop delay then.
    """
    return run_to_the_end(_Program(pool, name, stop_delay, development))


class _Program(Service):
    def __init__(self, pool: Pool, name: str, stop_delay: float, development: Development | None) -> None:
        super().__init__(pool, name, None, stop_delay, development=development)
        self._known: set[str] = set()
        #: Workers that have not listened yet.
        self._launches: dict[int, Launch] = {}
        #: Of workers, the sentence about a process that it has started, and that listens in its place.
        self._elsewhere: dict[int, str] = {}

    async def run(self) -> Outcome:
        self._pool.cluster.on(Listening, self._on_listening)
        self._pool.cluster.on(Forked, self._on_forked)
        self._pool.cluster.on(Exited, self._on_exited)
        outcome = await super().run()
        if not self._known and not self._was_told and outcome.status == 0:
            log.warning(
                "%s ended without having listened; an application that does not listen by itself is run by:"
                " everycore serve MODULE:APP",
                self._name,
            )
        return outcome

    def _on_listening(self, event: Listening) -> None:
        url = as_url(event.address, "udp" if event.kind == socket.SOCK_DGRAM else "tcp")
        if url not in self._known and len(self._known) <= _MOST_KNOWN:
            self._known.add(url)
            if len(self._known) > _MOST_KNOWN:
                url = f"more than {_MOST_KNOWN} addresses; further ones are not logged"
            log.info("%s listens on %s", self._name, url)

    def _say_where(self) -> None:
        """Said as it became known."""

    def _report_of(self, error: BootError) -> BootReport | None:
        """Its report, and which address is in use: Python's own words may not name it."""
        report = super()._report_of(error)
        told = self._pool._keeper.address_in_use(error.worker)
        elsewhere = next(iter(self._elsewhere.values()), None)
        if report is None and told is None and elsewhere is not None:
            return BootReport(f"{error.report}; {elsewhere}", STATUS_NO_BOOT)
        if report is None or (told := told or elsewhere) is None:
            return report
        return msgspec.structs.replace(report, text=f"{report.text.rstrip()}\n{told}")

    # Listeners that we do not see

    def _on_forked(self, event: Forked) -> None:
        self._launches[event.worker.id] = Launch()
        self._look_in(_FIRST_LOOK, event.worker, time.monotonic())

    def _on_exited(self, event: Exited) -> None:
        self._launches.pop(event.worker.id, None)
        for worker in self._pool.workers.values():  # one of them may have what this one wanted
            if not self._elsewhere and self._is_silent(worker):
                self._find_child(worker)

    def _look_in(self, seconds: float, worker: Worker, born: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._look, worker, born)

    def _is_silent(self, worker: Worker) -> bool:
        """Whether it has not listened yet, and may still."""
        return worker.pid is not None and not worker.is_ready and worker.state in ("none", "online")

    def _look(self, worker: Worker, born: float) -> None:
        if worker.pid is None or not self._is_silent(worker):
            self._launches.pop(worker.id, None)
            return
        age = time.monotonic() - born
        if not driver_of(worker).readiness.is_held:
            found = listeners_of(worker.pid, sockets_of(os.getpid())) or self._shared_by_children(worker.pid)
            if found:
                self._found(worker, found)
                return
        self._judge(worker, age)
        self._look_in(min(max(age / 4, _FIRST_LOOK), _LONGEST_PAUSE), worker, born)

    def _found(self, worker: Worker, addresses: list[Address]) -> None:
        urls = {as_url(address, "tcp") for address in addresses} - self._known
        self._known |= urls
        for url in sorted(urls):
            log.info("%s listens on %s by itself: the kernel spreads its connections", self._name, url)
        driver_of(worker).readiness.announce()

    def _shared_by_children(self, worker: int) -> list[Address]:
        """Where processes of the worker's own listen so that those of other workers may too (granian)."""
        known = sockets_of(os.getpid()) | sockets_of(worker)
        found = [address for pid in descendants_of(worker) for address in listeners_of(pid, known)]
        return [address for address in found if is_shareable(address)]

    # Processes that listen in a program's place

    def _judge(self, worker: Worker, age: float) -> None:
        """Whether a process of the worker's own listens in its place."""
        child, launch = self._find_child(worker), self._launches.get(worker.id)
        if launch is None or worker.pid is None:
            return
        verdict = launch.look(child, age, waits=waits_for_process(worker.pid))
        if verdict is Verdict.NOTHING:
            return
        elsewhere = self._elsewhere[worker.id]
        if verdict is Verdict.REFUSE and self._development is None:
            self._final = BootReport(elsewhere, STATUS_NO_BOOT, is_final=True)
            for other in self._pool.workers.values():
                other.kill(signal.SIGKILL)  # and with it the processes that it has started
            self._pool.stop()
        else:
            log.warning("%s has not listened yet: %s", self._name, elsewhere)

    def _find_child(self, worker: Worker) -> int | None:
        """A process of the worker's own that listens on a port."""
        assert worker.pid is not None
        known = sockets_of(os.getpid()) | sockets_of(worker.pid)
        for pid in descendants_of(worker.pid):
            for address in listeners_of(pid, known):
                if isinstance(address, tuple):
                    self._elsewhere[worker.id] = (
                        f"a process that {self._name} has started ({pid}) listens on"
                        f" {as_url(address, 'tcp')}, and connections go there past everycore:"
                        f" {remedy(command_line(pid))}"
                    )
                    return pid
        self._elsewhere.pop(worker.id, None)
        return None
