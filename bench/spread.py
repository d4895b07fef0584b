"""spread: which workers got the connections of one burst, beside other servers; and a picture of it."""

import importlib.metadata
import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench.contestants import Options, nodes, policies, started
from bench.drawing import Panel, picture
from bench.figures import Column, Samples, interleave, table
from bench.load import hold
from bench.processes import python

CONNECTIONS, WORKERS = 400, 8
SETTLE = 0.3  # until the servers have noticed that the last run's connections closed
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
_APP = "bench.programs.who:app"
_RUN = [sys.executable, "-m"]
_WORKERS = ["--workers", str(WORKERS)]
_PEERS: Mapping[str, tuple[tuple[str, ...], list[str]]] = {
    "uvicorn": (
        ("uvicorn",),
        [*_RUN, "uvicorn", *_WORKERS, "--port", "{port}", "--log-level", "error", "--no-access-log", _APP],
    ),
    "gunicorn": (
        ("gunicorn", "uvicorn-worker"),
        [
            *(*_RUN, "gunicorn", *_WORKERS, "--bind", "127.0.0.1:{port}", "--log-level", "error"),
            *("--worker-class", "uvicorn_worker.UvicornWorker", _APP),
        ],
    ),
    "granian": (
        ("granian",),
        [
            *_RUN,
            "granian",
            "--interface",
            "asgi",
            *_WORKERS,
            "--port",
            "{port}",
            "--log-level",
            "error",
            _APP,
        ],
    ),
}


def run(options: Options) -> str:
    missing = absent()
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    machine = f"{processors} processors; {load:.0f} other processes wanted them when it began."
    programs = contestants(options, missing)
    rounds = options.times(5)
    shares: dict[str, list[list[int]]] = {}
    with started(options, programs, seconds=180.0) as servers:

        def measure(name: str) -> dict[str, float]:
            server = servers[name]
            got = hold(server.port, CONNECTIONS, CONNECTIONS, ask=REQUEST)
            counts = sorted(got.values(), reverse=True)
            counts += [0] * (WORKERS - len(counts))
            shares.setdefault(name, []).append(counts)
            time.sleep(SETTLE)
            return {"largest": counts[0] * WORKERS / CONNECTIONS, "least": counts[-1] * WORKERS / CONNECTIONS}

        samples = interleave(list(servers), rounds, measure, label="spread")
    if options.svg:
        Path(options.svg).write_text(drawn(shares, missing, machine), encoding="utf-8")
    return report(samples, rounds, missing)


def contestants(options: Options, missing: Mapping[str, str]) -> dict[str, list[str]]:
    commands = {name: argv for name, (_, argv) in _PEERS.items()}
    for policy in options.policies or policies():
        commands[f"everycore {policy}"] = [
            *(*_RUN, "everycore", "serve", *_WORKERS, "--policy", policy, "--bind", "127.0.0.1:{port}"),
            *("--log-level", "error", "--control", "off", _APP),
        ]
    programs = {name: python("spread", WORKERS, *argv) for name, argv in commands.items()}
    programs |= nodes("who", WORKERS)
    order = [*_PEERS, "node none", "node rr", *sorted(commands, reverse=True)]
    return {name: programs[name] for name in dict.fromkeys(order) if name not in missing}


def absent() -> dict[str, str]:
    """Contestants that are not installed, and what each lacks."""
    found = {}
    for name, (packages, _) in _PEERS.items():
        lacks = [package for package in packages if version(package) is None]
        if lacks:
            found[name] = ", ".join(lacks)
    if shutil.which("node") is None:
        found |= {"node rr": "node", "node none": "node"}
    return found


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report(samples: Samples, rounds: int, missing: Mapping[str, str]) -> str:
    columns = [Column("largest", "largest / mean", ".2f"), Column("least", "smallest / mean", ".2f")]
    title = f"spread: {CONNECTIONS} connections opened at once over {WORKERS} workers, {rounds} rounds"
    notes = [f"{name} was left out: {what} is not installed" for name, what in missing.items()]
    return table(title, samples, columns, notes=notes)


def drawn(shares: Mapping[str, list[list[int]]], missing: Mapping[str, str], machine: str) -> str:
    """The picture: for each contestant, the round whose largest share is the median."""
    panels = []
    for name, rounds in shares.items():
        largest = statistics.median_low(counts[0] for counts in rounds)
        counts = next(counts for counts in rounds if counts[0] == largest)
        panels.append(Panel(label(name), counts, ours=name.startswith("everycore")))
    notes = ["A bar is a worker, its height the connections that it got; the dashed line is an equal share."]
    notes += [machine]
    if missing:
        notes.append(f"Not installed where this was drawn: {', '.join(map(label, missing))}.")
    return picture(
        f"Who gets {CONNECTIONS} connections that are opened at once, on {WORKERS} workers",
        panels,
        mean=CONNECTIONS / WORKERS,
        notes=notes,
    )


def label(name: str) -> str:
    """The name of a contestant in the picture."""
    if name in _PEERS:
        return f"{name} {version(name) or ''}".strip()
    return {"node rr": "Node's cluster, rr", "node none": "Node's cluster, none"}.get(name, name)
