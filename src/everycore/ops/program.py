"""A pool that runs any program, as a service: what differs from a served application.

It logs where the program listens when that becomes known, since no setting says so. A program may listen
where everycore does not see it (in C, as gRPC does). Such listeners are looked for, and the worker is ready
once they are found. If a program makes another program listen, which it has started, the log says so, or the
program is refused (`core.launchers`).
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
    listeners_at,
    listeners_of,
    sockets_of,
    waits_for_process,
)
from everycore.worker_face import Worker

if TYPE_CHECKING:  # as in `ops.service`
    from everycore.ops.development import Development

log = logging.getLogger("everycore.ops")

#: How long after the fork of a worker its listeners are looked for, in seconds. Each further look comes when
#: the worker is a quarter older, and at least this often, in seconds.
_FIRST_LOOK: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
#: Most addresses that are logged. A program may open a port for each client, and so listen on ever new ones.
_MOST_KNOWN: Final = 256


def run_program(
    pool: Pool, name: str, stop_delay: float = 0.0, development: Development | None = None
) -> Outcome:
    """Run the pool until it is told to stop, or until every worker has finished. `name` is the program's.

    stop_delay: how long to serve on after the signal, in seconds. development: what reloads the service when
    files change; there is no stop delay then.
    """
    return run_to_the_end(_Program(pool, name, stop_delay, development))


class _Program(Service):
    def __init__(self, pool: Pool, name: str, stop_delay: float, development: Development | None) -> None:
        super().__init__(pool, name, None, stop_delay, development=development)
        self._known: set[str] = set()
        #: The workers that have not listened yet.
        self._launches: dict[int, Launch] = {}
        #: The sentence about a process that a worker has started and that listens in its place, by worker.
        self._elsewhere: dict[int, str] = {}

    async def run(self) -> Outcome:
        self._pool.cluster.on(Listening, self._on_listening)
        self._pool.cluster.on(Forked, self._on_forked)
        self._pool.cluster.on(Exited, self._on_exited)
        outcome = await super().run()
        if not self._known and not self._was_told and outcome.status == 0:
            log.warning(
                "%s ended without having listened; if it is an application that a server runs, use:"
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
        """Do nothing: each address is logged when it becomes known."""

    def _report_of(self, error: BootError) -> BootReport | None:
        """The worker's report, with the address that is in use, which Python's own text may not name."""
        report = super()._report_of(error)
        told = self._pool._keeper.address_in_use(error.worker)
        elsewhere = next(iter(self._elsewhere.values()), None)
        if report is None and told is None and elsewhere is not None:
            return BootReport(f"{error.report}; {elsewhere}", STATUS_NO_BOOT)
        if report is None or (told := told or elsewhere) is None:
            return report
        return msgspec.structs.replace(report, text=f"{report.text.rstrip()}\n{told}")

    # Listeners outside everycore

    def _on_forked(self, event: Forked) -> None:
        self._pool.cluster._runtime.switchboard.postponed.is_elsewhere = self._is_elsewhere
        self._launches[event.worker.id] = Launch()
        self._look_in(_FIRST_LOOK, event.worker, time.monotonic())

    def _on_exited(self, event: Exited) -> None:
        self._launches.pop(event.worker.id, None)
        for worker in self._pool.workers.values():  # one of them may hold the address
            if not self._elsewhere and self._is_silent(worker):
                self._find_child(worker)

    def _look_in(self, seconds: float, worker: Worker, born: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._look, worker, born)

    def _is_silent(self, worker: Worker) -> bool:
        """Whether the worker has not listened yet, and still may."""
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
            log.info("%s listens on %s by itself; the kernel spreads its connections", self._name, url)
        driver_of(worker).readiness.announce()

    def _shared_by_children(self, worker: int) -> list[Address]:
        """The addresses of a worker's children that children of other workers may share (granian's do)."""
        known = sockets_of(os.getpid()) | sockets_of(worker)
        found = [address for pid in descendants_of(worker) for address in listeners_of(pid, known)]
        return [address for address in found if is_shareable(address)]

    def _is_elsewhere(self, number: int, address: object) -> bool:
        """Whether another worker listens there by itself, and this one does not: alone, it would be refused.

        A server that listens in C or Rust learns in this way whether its port is free, before it binds.
        """
        inodes = listeners_at(address) - sockets_of(os.getpid())
        if not inodes:
            return False
        workers = [worker for worker in self._pool.workers.values() if worker.state in ("none", "online")]
        holders = {worker.id for worker in workers if worker.pid and inodes & sockets_of(worker.pid)}
        return bool(holders) and number not in holders

    # Processes that listen in a program's place

    def _judge(self, worker: Worker, age: float) -> None:
        """Warn, or refuse the program, if a process that the worker has started listens in its place."""
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
                other.kill(signal.SIGKILL)  # this also kills the processes that it has started
            self._pool.stop()
        else:
            log.warning("%s has not listened yet: %s", self._name, elsewhere)

    def _find_child(self, worker: Worker) -> int | None:
        """The pid of a process that the worker has started and that listens; None if there is none."""
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
