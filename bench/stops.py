"""stops: from SIGTERM to the end of an idle service whose application has a connection of its own open."""

import json
import os
import select
import signal
import sys
import time

from bench.contestants import Options
from bench.figures import Column, interleave, table
from bench.processes import Server, python

APPLICATION = "bench.programs.application"
BARE = "uvicorn"
_SERVE = [sys.executable, "-m", "everycore", "serve", "--bind", "127.0.0.1:{port}", "--log-level", "error"]
_RUN = [sys.executable, "-m", "everycore", "run", "--log-level", "error"]
_CONTESTANTS = {
    "everycore serve": [*_SERVE, "--workers", "1", f"{APPLICATION}:app"],
    "everycore run, uvicorn": [*_RUN, "--workers", "1", "-m", APPLICATION],
    "everycore run, a plain loop": [*_RUN, "--workers", "1", "-m", APPLICATION, "plain"],
    BARE: [sys.executable, "-m", APPLICATION],
}
_COLUMNS = (
    Column("told", "application told ms"),
    Column("worker", "worker gone ms"),
    Column("gone", "all gone ms", ratio=True),
)
SECONDS = 40.0


def run(options: Options) -> str:
    names = [name for name in _CONTESTANTS if options.wants(name) or name == BARE]
    rounds = options.times(7)
    samples = interleave(names, rounds, lambda name: _stop(_CONTESTANTS[name]), label="stops")
    title = f"stops: SIGTERM to an idle service with a database connection open, {rounds} rounds"
    return table(title, samples, _COLUMNS, baseline=BARE)


def _stop(argv: list[str]) -> dict[str, float]:
    with Server(python("command", *argv), seconds=60.0) as server:
        pids = (*server.workers, server.primary)
        ends = [os.pidfd_open(pid) for pid in pids]
        try:
            begun = time.monotonic()
            os.kill(server.primary, signal.SIGTERM)
            worker, primary = (_wait(end, begun) for end in ends)
        finally:
            for end in ends:
                os.close(end)
        told = json.loads(server.line())["shut_down"] - begun
    return {"told": told * 1000, "worker": worker * 1000, "gone": primary * 1000}


def _wait(pidfd: int, begun: float) -> float:
    if not select.select([pidfd], [], [], SECONDS)[0]:
        raise TimeoutError(f"not gone after {SECONDS:g} s")
    return time.monotonic() - begun
