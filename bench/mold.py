"""mold: workers that are forked from one process, beside fresh ones and gunicorn's `--preload`.

Four workers of FastAPI and numpy: memory of the whole tree after 2 000 requests (PSS, and its part that is
not backed by files), time to the first reply, time from the kill of a worker to the reply of its replacement;
and eight workers beside one.
"""

import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench.contestants import Options
from bench.figures import Column, Samples, interleave, ratio, table
from bench.processes import Missing, environment

OURS, FRESH = "everycore --preload", "everycore"
ASGI, UVICORN = "gunicorn --preload -k asgi", "uvicorn"
WORKERS, MANY = 4, 8
REQUESTS = 2000
_APP = "bench.programs.heavy:app"
_PATIENCE = 60.0


def run(options: Options) -> str:
    wanted = [OURS, FRESH, ASGI, UVICORN]
    missing = [name for name in ("fastapi", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f"missing: {', '.join(missing)}; pip install fastapi numpy gunicorn")
    names = [name for name in wanted if name != ASGI or importlib.util.find_spec("gunicorn") is not None]
    names = [name for name in names if options.wants(name)]
    rounds = options.times(3)
    memory = interleave(names, rounds, _serve, label="mold")
    several = [f"{name}, {count}" for name in (OURS, FRESH) if name in names for count in (1, MANY)]
    starts = interleave(several, rounds, _start, label="mold")
    baseline = ASGI if ASGI in names else UVICORN
    kills = interleave([name for name in (OURS, FRESH) if name in names], rounds, _kill, label="mold")
    return "\n".join(
        [
            table(
                f"mold: {WORKERS} workers of FastAPI and numpy, {REQUESTS} requests",
                memory,
                [
                    Column("pss", "PSS MiB", ".1f", ratio=True),
                    Column("anonymous", "anonymous MiB", ".1f", ratio=True),
                    Column("first", "first reply ms", ratio=True),
                ],
                baseline=baseline,
            ),
            table(
                "mold: from the start until all workers have answered",
                starts,
                [Column("ms", "ms")],
                notes=[_note(starts, name) for name in (OURS, FRESH) if name in names],
            ),
            table(
                "mold: from the kill of a worker until its replacement answers",
                kills,
                [Column("ms", "ms", ".1f")],
            ),
        ]
    )


def _note(samples: Samples, name: str) -> str:
    times = ratio(samples, f"{name}, {MANY}", f"{name}, 1", "ms")
    return f"{name}: {MANY} workers in {0.0 if times is None else times:.2f} times the time of one."


def _command(name: str, port: int, workers: int) -> list[str]:
    python = [sys.executable, "-m"]
    bind = f"127.0.0.1:{port}"
    match name:
        case _ if name == ASGI:
            return [*python, "gunicorn", "--preload", "-k", "asgi", "-w", str(workers), "-b", bind, _APP]
        case _ if name == UVICORN:
            head = [*python, "uvicorn", "--workers", str(workers), "--port", str(port)]
            return [*head, "--log-level", "error", _APP]
        case _:
            preload = ["--preload"] if name == OURS else []
            head = [*python, "everycore", "serve", *preload, "--workers", str(workers), "--bind", bind]
            return [*head, "--log-level", "error", _APP]


@contextmanager
def _running(name: str, workers: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        _command(name, port, workers),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process, port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _ask(port: int) -> int | None:
    """The process that answers; None if none listens yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        return int(connection.getresponse().read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _until(port: int, is_enough: int, among: set[int] | None = None) -> set[int]:
    """Ask until this many processes have answered that are not in `among`."""
    seen: set[int] = set()
    deadline = time.monotonic() + _PATIENCE
    while len(seen) < is_enough:
        found = _ask(port)
        if found is not None and (among is None or found not in among):
            seen.add(found)
        elif time.monotonic() > deadline:
            raise TimeoutError(f"{len(seen)} of {is_enough} workers have answered")
        elif found is None:
            time.sleep(0.001)
    return seen


def _serve(name: str) -> dict[str, float]:
    begun = time.perf_counter()
    with _running(name, WORKERS) as (process, port):
        _until(port, 1)
        first = time.perf_counter() - begun
        _until(port, WORKERS)
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(_ask, [port] * REQUESTS))
        sizes = [_size(pid) for pid in _tree(process.pid)]
    return {
        "pss": sum(size["Pss"] for size in sizes) / 1024,
        "anonymous": sum(size["Pss_Anon"] for size in sizes) / 1024,
        "first": first * 1000,
    }


def _start(what: str) -> dict[str, float]:
    name, _, count = what.rpartition(", ")
    begun = time.perf_counter()
    with _running(name, int(count)) as (_, port):
        _until(port, int(count))
        return {"ms": (time.perf_counter() - begun) * 1000}


def _kill(name: str) -> dict[str, float]:
    with _running(name, 2) as (_, port):
        before = _until(port, 2)
        begun = time.perf_counter()
        os.kill(min(before), signal.SIGKILL)
        _until(port, 1, before)
        return {"ms": (time.perf_counter() - begun) * 1000}


def _tree(pid: int) -> Sequence[int]:
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _size(pid: int) -> dict[str, int]:
    """KiB by name, from /proc/PID/smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}
