"""stops: the time from SIGTERM to the end of an idle service whose application has a connection open."""

import json
import os
import select
import signal
import sys
import time

from bench.contestants import Options, loops, policies
from bench.figures import Column, interleave, table
from bench.processes import Server, python

APPLICATION = "bench.programs.application"
BARE = "uvicorn"
_EVERYCORE = [sys.executable, "-m", "everycore"]
_COLUMNS = (
    Column("told", "application told ms"),
    Column("worker", "worker gone ms"),
    Column("gone", "all gone ms", ratio=True),
)
SECONDS = 40.0


def run(options: Options) -> str:
    return "\n".join(
        _measure(options, policy, loop)
        for policy in options.policies or policies()
        for loop in options.loops or loops()
    )


def _measure(options: Options, policy: str, loop: str) -> str:
    given = ["--log-level", "error", "--workers", "1", "--policy", policy, "--loop", loop]
    serve = [*_EVERYCORE, "serve", *given, "--bind", "127.0.0.1:{port}"]
    program = [*_EVERYCORE, "run", *given, "-m", APPLICATION]
    contestants = {
        "everycore serve": [*serve, f"{APPLICATION}:app"],
        "everycore run, uvicorn": program,
        "everycore run, a plain loop": [*program, "plain"],
        BARE: [sys.executable, "-m", APPLICATION],
    }
    names = [name for name in contestants if options.wants(name) or name == BARE]
    rounds = options.times(9)
    samples = interleave(names, rounds, lambda name: _stop(contestants[name]), label="stops")
    title = f"stops: {policy}, {loop}, SIGTERM to an idle service with a database open, {rounds} rounds"
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
