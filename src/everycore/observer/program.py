"""The program of the observer: `python -m everycore.observer JOB`.

Serve until the primary closes the line, or is gone. Invariant: nothing of a service is in this process but
what the primary says, and what the workers have written.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from everycore.core.control import VERSION, AskHello, ObserverJob, ServiceName
from everycore.errors import ControlError
from everycore.observer.app import ObserverApp
from everycore.observer.line import Line, open_line
from everycore.observer.serving import inherited, server_of
from everycore.ops import logs
from everycore.ops.log_formats import Speaker

#: Seconds between two signs of life; the primary waits for three times as long.
BEAT: Final = 10.0


def main(argv: Sequence[str]) -> int:
    """Observe as the command line says; return the exit status."""
    job = msgspec.json.decode(argv[1], type=ObserverJob)
    logs.configure(
        Speaker("observer"), job.log_level, format=job.log_format, file=job.log_file, is_lenient=True
    )
    for fd in (job.line, *job.listeners):
        os.set_inheritable(fd, False)
    asyncio.run(_observe(job))
    sys.stderr.flush()
    return 0


async def _observe(job: ObserverJob) -> None:
    line = await open_line(job.line)
    server = server_of(ObserverApp(line, job.min_ready))
    serving = asyncio.create_task(server.serve(sockets=inherited(job.listeners)))
    beating = asyncio.create_task(_beat(line))
    ending = asyncio.create_task(line.ended.wait())
    try:
        await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        beating.cancel()
        serving.cancel()
        ending.cancel()
        await asyncio.gather(serving, beating, ending, return_exceptions=True)
        await line.close()


async def _beat(line: Line) -> None:
    """Show the primary that this process goes on."""
    while True:
        try:
            await line.ask(AskHello(v=VERSION), ServiceName)
        except ControlError:
            pass
        await asyncio.sleep(BEAT)
