"""A pool that runs any program, as a program: what differs from a served application.

Log where the program listens, as it does so, for nobody has told us before.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from everycore.events import Listening
from everycore.ops.service import Outcome, Service, run_to_the_end
from everycore.pool import Pool
from everycore.system.addresses import as_url

if TYPE_CHECKING:  # as in `ops.service`
    from everycore.ops.development import Development

log = logging.getLogger("everycore.ops")


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

    async def run(self) -> Outcome:
        self._pool.cluster.on(Listening, self._on_listening)
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
        if url not in self._known:
            self._known.add(url)
            log.info("%s listens on %s", self._name, url)

    def _say_where(self) -> None:
        """Said as it became known."""
