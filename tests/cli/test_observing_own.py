"""The application's own metrics: exact over reloads and deaths, without any code for that."""

import http.client
import os
import signal
import socket
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

import everycore.control
from tests.kit import scaled
from tests.kit.running import run
from tests.kit.serving import metrics_port

#: Counts each request, by worker, with prometheus-client; and, for the test, in a file that survives a kill.
COUNTS = """
import everycore, mmap, os
from prometheus_client import Counter

ORDERS = Counter("orders", "x", ["worker"])
NUMBER = everycore.current_worker().id
with open(f"truth.{NUMBER}", "wb+") as file:
    file.truncate(4096)
    TRUTH = memoryview(mmap.mmap(file.fileno(), 4096)).cast("q")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    TRUTH[0] += 1
    ORDERS.labels(NUMBER).inc()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
"""


def orders(port):
    """What the observer reports: worker -> its orders."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=scaled(20))
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {
        int(sample.labels["worker"]): int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "orders_total"
    }


def truth(folder):
    """What really happened: worker -> its orders."""
    found = {
        int(path.suffix[1:]): int.from_bytes(path.read_bytes()[:8], "little")
        for path in folder.glob("truth.*")
    }
    return {worker: count for worker, count in found.items() if count}


def wait_told(port, folder):
    """Wait until the observer reports the truth; nothing is counted meanwhile."""
    deadline = time.monotonic() + scaled(30)
    while (told := orders(port)) != (there_is := truth(folder)):
        assert time.monotonic() < deadline, (told, there_is)
    return sum(told.values())


@pytest.mark.slow
@pytest.mark.limit(120)
def test_orders_are_counted_over_a_reload_a_kill_and_another_observer(serve, tmp_path):
    served = serve("--metrics", "127.0.0.1:0", source=COUNTS)
    port = metrics_port(served.program)
    with everycore.control.connect(pid=served.program.pid) as service:
        for _ in range(7):
            served.get()
        assert wait_told(port, tmp_path) == 7
        victim = service.status().workers[0]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        for _ in range(3):
            served.get()
        service.reload(timeout=scaled(60))
        # Workers that leave report their last counts; the killed one had reported all before.
        assert wait_told(port, tmp_path) == 10
        status = service.status()
        observer = [
            pid
            for pid in served.program.descendants()
            if pid not in {worker.pid for worker in status.workers}
        ]
        for pid in observer:
            os.kill(pid, signal.SIGKILL)
        assert sum(orders(port).values()) == 10
    assert served.program.finish() == 0


@pytest.mark.slow
def test_a_program_without_a_loop_of_everycore_counts_too(start_command, tmp_path):
    source = """
import socket
from prometheus_client import Counter
ORDERS = Counter("orders", "x", ["worker"])
with socket.create_server(("127.0.0.1", 0)) as server:
    while True:
        server.accept()[0].close()
        ORDERS.labels(1).inc()
"""
    running = run(start_command, tmp_path, source, workers=1, options=["--metrics", "127.0.0.1:0"])
    port = running.port()
    with socket.create_connection(("127.0.0.1", port), timeout=scaled(20)) as client:
        assert client.recv(1) == b""
    deadline = time.monotonic() + scaled(30)
    while orders(metrics_port(running.program)) != {1: 1}:
        assert time.monotonic() < deadline
    assert running.program.finish() == 0


class Load(threading.Thread):
    """Asks until it is told to stop; requests fail only at a killed worker."""

    def __init__(self, served):
        super().__init__()
        self._served = served
        self._is_over = threading.Event()

    def run(self):
        while not self._is_over.is_set():
            try:
                self._served.get()
            except (OSError, http.client.HTTPException):
                continue

    def stop(self):
        self._is_over.set()
        self.join(scaled(30))


@pytest.mark.soak
@pytest.mark.limit(900)
def test_ten_reloads_and_ten_kills_under_load(serve, tmp_path):
    """The last 5 s of a killed worker's counts may be lost; no others."""
    served = serve("--metrics", "127.0.0.1:0", "--grace", "10", source=COUNTS, workers=3)
    port = metrics_port(served.program)
    clients = [Load(served) for _ in range(4)]
    for client in clients:
        client.start()
    least: dict[int, int] = {}
    try:
        with everycore.control.connect(pid=served.program.pid) as service:
            for turn in range(10):
                service.reload(timeout=scaled(120))
                ready = [worker for worker in service.status().workers if worker.is_ready]
                victim = ready[turn % len(ready)]
                assert victim.pid is not None
                # Its counts 5 s before its end.
                before = time.monotonic()
                least[victim.id] = truth(tmp_path).get(victim.id, 0)
                while time.monotonic() < before + 5.0:
                    orders(port)
                os.kill(victim.pid, signal.SIGKILL)
                service.scale(3, timeout=scaled(120))
    finally:
        for client in clients:
            client.stop()
    told, there_is = {}, truth(tmp_path)
    deadline = time.monotonic() + scaled(30)
    while time.monotonic() < deadline:
        told = orders(port)
        if all(told.get(worker) == count for worker, count in there_is.items() if worker not in least):
            break
    assert set(told) <= set(there_is)
    for worker, count in there_is.items():
        if worker in least:
            assert least[worker] <= told.get(worker, 0) <= count, worker
        else:
            assert told.get(worker) == count, worker
    lost = sum(there_is.values()) - sum(told.values())
    print(f"orders {sum(there_is.values())}, told {sum(told.values())}, of ten killed workers lost {lost}")
    assert served.program.finish() == 0
