"""The program of the observer: `python -m everycore.observer JOB`.

It serves until the primary closes the connection, or is gone. Invariant: this process knows of the service
only what the primary says, and what the workers have written.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from everycore.core.control import VERSION, AskHello, ServiceName
from everycore.core.measures import ObserverJob
from everycore.errors import ControlError
from everycore.observer.app import ObserverApp
from everycore.observer.gathering import Gatherer
from everycore.observer.line import PrimaryLine, open_line
from everycore.observer.serving import inherited, server_of
from everycore.ops import logs
from everycore.ops.log_formats import Speaker
from everycore.system.tally import ObserverTally

log = logging.getLogger("everycore.observer")

#: uvicorn's logger for servers and connections.
_OF_REQUESTS: Final = "uvicorn.error"
#: The time between two signs of life, in seconds. The primary waits three times as long.
BEAT: Final = 10.0
#: The time between two looks for ended workers, in seconds: there are few slots for these.
FOLD: Final = 2.0


def main(argv: Sequence[str]) -> int:
    """Observe as the command line says. Returns the exit status."""
    job = msgspec.json.decode(argv[1], type=ObserverJob)
    logs.configure(
        Speaker("observer"), job.log_level, format=job.log_format, file=job.log_file, is_lenient=True
    )
    if not logging.getLogger(_OF_REQUESTS).isEnabledFor(logging.DEBUG):
        # These lines are about faulty requests: any client could fill the service's log.
        logging.getLogger(_OF_REQUESTS).setLevel(logging.CRITICAL)
    for fd in (job.line, *job.listeners, *([job.tally] if job.tally >= 0 else [])):
        os.set_inheritable(fd, False)
    asyncio.run(_observe(job))
    sys.stderr.flush()
    return 0


async def _observe(job: ObserverJob) -> None:
    line = await open_line(job.line)
    gatherer = None if job.tally < 0 else Gatherer(ObserverTally(job.tally))
    own = (lambda: ()) if gatherer is None else gatherer.metrics
    server = server_of(ObserverApp(line, job.min_ready, own))
    folding = asyncio.create_task(_fold(gatherer))
    serving = asyncio.create_task(server.serve(sockets=inherited(job.listeners)))
    beating = asyncio.create_task(_beat(line))
    ending = asyncio.create_task(line.ended.wait())
    try:
        await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        beating.cancel()
        folding.cancel()
        serving.cancel()
        ending.cancel()
        await asyncio.gather(serving, beating, folding, ending, return_exceptions=True)
        await line.close()


async def _beat(line: PrimaryLine) -> None:
    """Show the primary that this process is alive."""
    while True:
        try:
            await line.ask(AskHello(v=VERSION), ServiceName)
        except ControlError:
            pass
        await asyncio.sleep(BEAT)


async def _fold(gatherer: Gatherer | None) -> None:
    """Release the slots of ended workers, even if no client asks for metrics."""
    while gatherer is not None:
        try:
            gatherer.fold()
        except Exception:
            log.exception("cannot gather the metrics of ended workers")
        await asyncio.sleep(FOLD)
