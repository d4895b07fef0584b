"""Programs under measurement: started, asked for their processes, measured through /proc, and always ended.

A program prints one line of JSON when it is ready and ends when its standard input ends, so it never outlives
the benchmark.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent
_ROOT = HERE.parent
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Missing(Exception):
    """Programs that a benchmark needs are not installed."""


def need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise Missing(f"missing: {', '.join(missing)}; `make deps` installs what the benchmarks start")


def python(program: str, *args: object) -> list[str]:
    return [sys.executable, "-m", f"bench.programs.{program}", *map(str, args)]


def node(program: str, *args: object) -> list[str]:
    return ["node", str(HERE / "node" / program), *map(str, args)]


def environment() -> dict[str, str]:
    """The environment of this process, without variables that would influence a contestant."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EVERYCORE_", "_EVERYCORE_", "NODE_", "UV_", "PYTHON"))
    }


class Server:
    """A server with its workers. Use it in a `with` block."""

    def __init__(self, argv: Sequence[str], *, seconds: float = 30.0) -> None:
        self._process = subprocess.Popen(
            argv,
            cwd=_ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        try:
            ready = self._hear(seconds)
        except BaseException:
            self.close()
            raise
        self.port: int = ready["port"]
        self.primary: int = ready.get("primary", self._process.pid)
        self.workers: list[int] = ready["workers"]

    def line(self) -> str:
        """The next line that the program prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _hear(self, seconds: float) -> Any:
        assert self._process.stdout is not None
        previous = signal.signal(signal.SIGALRM, _too_late)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            line = self._process.stdout.readline()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended before it was ready")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        try:  # the whole session, with processes that may have outlived the primary
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._process.stdout.close()

    def cpu(self) -> tuple[float, float]:
        """Seconds of CPU time so far: of the primary, and of the workers together."""
        return cpu_seconds([self.primary]), cpu_seconds(self.workers)


def _too_late(*_: object) -> None:
    raise TimeoutError("the program did not say that it was ready")


def run_json(argv: Sequence[str], *, seconds: float = 120.0) -> Any:
    """Run a program that measures itself. Returns the contents of its last line."""
    process = subprocess.Popen(
        argv,
        cwd=_ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        previous = signal.signal(signal.SIGALRM, _too_late)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            output = process.stdout.read()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        if process.wait(10) or not output.strip():
            raise RuntimeError(f"{' '.join(argv)} failed with status {process.returncode}")
        return json.loads(output.strip().splitlines()[-1])
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        process.stdin.close()
        process.stdout.close()


def cpu_seconds(pids: Iterable[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime
    return ticks / _TICK


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """Resident memory in KiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE // 1024
