"""observer: the cost of being observed: control socket and metrics, scraped every second.

Also the cost of an application's own metrics, gathered as everycore does it and by multiprocess files.
"""

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import ExitStack

import everycore.control
from bench.contestants import Options
from bench.figures import Column, interleave, quantile, table
from bench.load import apache_bench
from bench.processes import Server, need, python, run_json
from bench.stops import APPLICATION
from everycore.core.control import VERSION, AskStatus, ServiceStatus

WORKERS, CONCURRENCY, EVERY, WAITING = 2, 64, 1.0, 200
_NONE, _CONTROL, _ALL = "nothing", "control", "control, metrics"
_COLUMNS = (
    Column("rate", "conn/s", ratio=True),
    Column("primary", "primary us/conn", ".1f", ratio=True),
    Column("scrapes", "scrapes"),
    Column("failed", "failed"),
)
_COUNTING = (
    Column("inc", "count us", ".2f", ratio=True),
    Column("observe", "observe us", ".2f", ratio=True),
    Column("told", "written ms", ".2f"),
    Column("scrape", "scrape ms", ".1f", ratio=True),
    Column("kept", "bytes"),
)


def run(options: Options) -> str:
    need("ab")
    return f"{_seen(options)}\n{_counting(options)}"


def _seen(options: Options) -> str:
    rounds, count = options.times(9), 60_000 if options.full else 15_000
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = os.path.join(folder, "metrics.sock")
        words = {
            _NONE: ["--control", "off"],
            _CONTROL: [],
            _ALL: ["--metrics", f"unix:{path}"],
        }
        servers = {
            name: stack.enter_context(Server(_command(more), seconds=60)) for name, more in words.items()
        }
        for server in servers.values():
            apache_bench(server.port, 2000, CONCURRENCY)  # warm

        def measure(name: str) -> dict[str, float]:
            server = servers[name]
            scraper = Scraper(path) if name == _ALL else None
            before, _ = server.cpu()
            rate, failed = apache_bench(server.port, count, CONCURRENCY)
            after, _ = server.cpu()
            return {
                "rate": rate,
                "primary": (after - before) * 1e6 / count,
                "scrapes": 0.0 if scraper is None else scraper.stop(),
                "failed": failed,
            }

        samples = interleave(list(servers), rounds, measure, label="observer")
        asked = f"{_under_load(servers[_ALL], count)}{_while_blocked(servers[_ALL])}"
    title = (
        f"observer: ab -c {CONCURRENCY} -n {count}, {WORKERS} workers, scraped each second, {rounds} rounds"
    )
    return f"{table(title, samples, _COLUMNS, baseline=_NONE)}\n{asked}"


def _under_load(server: Server, count: int) -> str:
    """Ask for the status while connections come as fast as they are served."""
    asker = Asker(server.primary)
    rate, _ = apache_bench(server.port, count, CONCURRENCY)
    return f"at {rate:.0f} conn/s: {_told(asker)}"


def _told(asker: "Asker") -> str:
    found = asker.stop()
    return f"status {found['status']:.1f} ms, slowest {found['slowest']:.1f} ms\n"


def _while_blocked(server: Server) -> str:
    """Ask for the status while all workers are idle and clients wait."""
    with ExitStack() as stack:
        for pid in server.workers:
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        for _ in range(WAITING):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        asker = Asker(server.primary)
        time.sleep(5)
        return f"all workers stopped, {WAITING} clients wait: {_told(asker)}"


def _command(more: list[str]) -> list[str]:
    argv = [sys.executable, "-m", "everycore", "serve", "--bind", "127.0.0.1:{port}", "--log-level", "error"]
    return python("command", *argv, "--workers", WORKERS, *more, f"{APPLICATION}:app")


class Scraper(threading.Thread):
    """Asks for the metrics at once and then every second, until stopped."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._is_over = threading.Event()
        self._count = 0.0
        self.start()

    def run(self) -> None:
        while True:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self._path)
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer[:100].decode())
            self._count += 1
            if self._is_over.wait(EVERY):
                return

    def stop(self) -> float:
        """How often it has asked."""
        self._is_over.set()
        self.join()
        return self._count


class Asker(threading.Thread):
    """Asks for the status ten times a second, until stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._service = everycore.control.connect(pid=pid)
        self._is_over = threading.Event()
        self._times: list[float] = []
        self.start()

    def run(self) -> None:
        request = AskStatus(v=VERSION)
        while not self._is_over.wait(0.1):
            begun = time.monotonic()
            self._service._ask(request, ServiceStatus)  # without the memory, which the asking side reads
            self._times.append((time.monotonic() - begun) * 1000)

    def stop(self) -> dict[str, float]:
        """The median and the longest time, in milliseconds."""
        self._is_over.set()
        self.join()
        self._service.close()
        return {"status": quantile(sorted(self._times), 0.5), "slowest": max(self._times)}


def _counting(options: Options) -> str:
    names = {f"{way}, {dead} dead": (way, dead) for dead in (0, 20) for way in ("gathered", "mmaps")}

    def measure(name: str) -> dict[str, float]:
        found: dict[str, float] = run_json(python("counting", *names[name]))
        return found

    samples = interleave(list(names), options.times(3), measure, label="counting")
    title = "observer: an application that counts by prometheus-client, 1000 series, three workers"
    return table(title, samples, _COUNTING, baseline="gathered, 0 dead")
