"""reloads: latency during a reload of a service, and while idle processes import its application."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from bench.contestants import Options, loops, policies
from bench.figures import Column, interleave, quantile, table
from bench.load import Request, open_loop
from bench.processes import Server, environment, python
from bench.stops import APPLICATION

WORKERS, RATE, MOST = 2, 200.0, 60.0
#: The time for the service at rest, about that of a reload here.
_QUIET = 3.0
_REQUEST = b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"
_IMPORT = f"import everycore.servers.program, everycore.servers.engines, {APPLICATION}"
_COLUMNS = (
    Column("seconds", "seconds", ".1f"),
    Column("p50", "p50 ms", ".1f", ratio=True),
    Column("p99", "p99 ms", ".1f", ratio=True),
    Column("most", "most ms", ".0f", ratio=True),
    Column("lost", "lost"),
    Column("behind", "client late ms", ".1f"),
)
_RELOAD, _BESIDE, _REST = "reload", "imports beside it", "at rest"


def run(options: Options) -> str:
    rounds = options.times(5)
    tables = [
        _measure(policy, loop, rounds)
        for policy in options.policies or policies()
        for loop in options.loops or loops()
    ]
    return "\n".join(tables)


def _measure(policy: str, loop: str, rounds: int) -> str:
    argv = [sys.executable, "-m", "everycore", "serve", "--bind", "127.0.0.1:{port}", "--log-level", "error"]
    argv += ["--workers", str(WORKERS), "--policy", policy, "--loop", loop, f"{APPLICATION}:app"]
    with Server(python("command", *argv), seconds=60.0) as server:
        during: dict[str, Callable[[], None]] = {
            _RELOAD: lambda: _reload(server),
            _BESIDE: _import,
            _REST: _rest,
        }
        samples = interleave(
            list(during), rounds, lambda name: _load(server.port, during[name]), label="reloads"
        )
    title = f"reloads: {policy}, {loop}, {WORKERS} workers, {RATE:.0f} requests a second, {rounds} rounds"
    return table(title, samples, _COLUMNS, baseline=_BESIDE)


def _load(port: int, disturb: Callable[[], None]) -> dict[str, float]:
    """Latencies of the requests that were due while `disturb` ran."""
    plan = [Request(number / RATE, 0) for number in range(int(MOST * RATE))]
    disturbance = threading.Thread(target=disturb)
    disturbance.start()
    outcome = open_loop(
        port, plan, patience=30.0, say=lambda _: _REQUEST, is_over=lambda: not disturbance.is_alive()
    )
    disturbance.join()
    ordered = sorted(latency * 1000 for latency in outcome.latencies if latency is not None)
    return {
        "seconds": len(outcome.latencies) / RATE,
        "p50": quantile(ordered, 0.5),
        "p99": quantile(ordered, 0.99),
        "most": ordered[-1],
        "lost": float(outcome.lost),
        "behind": outcome.behind * 1000,
    }


def _reload(server: Server) -> None:
    """Wait until the last of the old workers has ended."""
    old = [os.pidfd_open(pid) for pid in _children(server.primary)]
    try:
        os.kill(server.primary, signal.SIGHUP)
        for end in old:
            if not select.select([end], [], [], MOST)[0]:
                raise TimeoutError("a worker of before is still there")
    finally:
        for end in old:
            os.close(end)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def _rest() -> None:
    time.sleep(_QUIET)


def _import() -> None:
    """Import what new workers import, in one process after the other, as in a reload."""
    for _ in range(WORKERS):
        subprocess.run([sys.executable, "-c", _IMPORT], env=environment(), check=True, timeout=MOST)
