"""A pool that runs any program, as a program: what differs from a served application.

Log where the program listens, as it does so, for nobody has told us before. One that listens where we do not
see it (in C, as gRPC does) is looked for, and is ready once its listener is found.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final

import msgspec

from everycore.errors import BootError
from everycore.events import Forked, Listening
from everycore.model import Address
from everycore.ops.job import BootReport
from everycore.ops.service import Outcome, Service, run_to_the_end
from everycore.pool import Pool
from everycore.primary.driver import driver_of
from everycore.system.addresses import as_url
from everycore.system.sightings import descendants_of, is_shareable, listeners_of, sockets_of
from everycore.worker_face import Worker

if TYPE_CHECKING:  # as in `ops.service`
    from everycore.ops.development import Development

log = logging.getLogger("everycore.ops")

#: Seconds from the fork of a worker until its listeners are looked for. After that it is looked for them when
#: it is a quarter older each time, and at least every so many seconds.
_FIRST_LOOK: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
#: A worker that is so old has not just started a helper, if a process of its own listens and it does not.
_CHILD_SERVES: Final = 20.0
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
        #: Processes that workers have started, and of which was told that they listen.
        self._strangers: set[int] = set()

    async def run(self) -> Outcome:
        self._pool.cluster.on(Listening, self._on_listening)
        self._pool.cluster.on(Forked, self._on_forked)
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
                url = f"more than {_MOST_KNOWN} addresses; no more of them are told"
            log.info("%s listens on %s", self._name, url)

    def _say_where(self) -> None:
        """Said as it became known."""

    def _report_of(self, error: BootError) -> BootReport | None:
        """Its report, and which address is in use: Python's own words may not name it."""
        report = super()._report_of(error)
        told = self._pool._keeper.address_in_use(error.worker)
        if report is None or told is None:
            return report
        return msgspec.structs.replace(report, text=f"{report.text.rstrip()}\n{told}")

    # Listeners that we do not see

    def _on_forked(self, event: Forked) -> None:
        self._look_in(_FIRST_LOOK, event.worker, time.monotonic())

    def _look_in(self, seconds: float, worker: Worker, born: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._look, worker, born)

    def _look(self, worker: Worker, born: float) -> None:
        if worker.pid is None or worker.is_ready or worker.state not in ("none", "online"):
            return
        age = time.monotonic() - born
        if not driver_of(worker).readiness.is_held:
            found = listeners_of(worker.pid, sockets_of(os.getpid())) or self._shared_by_children(worker.pid)
            if found:
                self._found(worker, found)
                return
        if age > _CHILD_SERVES:
            self._look_at_children(worker.pid)
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

    def _look_at_children(self, worker: int) -> None:
        for pid in descendants_of(worker):
            if pid not in self._strangers and (addresses := listeners_of(pid, sockets_of(worker))):
                self._strangers.add(pid)
                log.warning(
                    "%s has not listened yet, but a process that it has started has (%d, %s): connections go"
                    " there past everycore; let the program listen in the process in which it begins",
                    self._name,
                    pid,
                    as_url(addresses[0], "tcp"),
                )
