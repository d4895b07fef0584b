"""How a worker's own metrics are written to the tally."""

import os

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from everycore.core.tallies import read_told
from everycore.foreign import prometheus_internals
from everycore.system.tally import ObserverTally, PrimaryTally, WorkerTally
from everycore.worker.intercept.for_prometheus import Teller


class Asks:
    """A program's own collector, which queries a database."""

    asked = 0

    def collect(self):
        self.asked += 1
        return []


@pytest.fixture
def told():
    """A teller, and what it has told."""
    primary = PrimaryTally()
    slot = primary.allot(1)
    observer = ObserverTally(primary.fd)
    tally = WorkerTally(os.dup(primary.fd), slot)
    teller = Teller(tally)
    teller._registry = CollectorRegistry()

    def read():
        teller.tell()
        payload = observer.read(slot)
        return None if payload is None else {family.name: family for family in read_told(payload)}

    yield teller, read
    tally.close()
    observer.close()
    primary.close()


def test_metrics_are_told_and_collectors_of_the_program_are_not_asked(told):
    teller, read = told
    asks = Asks()
    teller._registry.register(asks)
    asked = asks.asked
    Counter("orders", "x", ["kind"], registry=teller._registry).labels("a").inc(3)
    Gauge("depth", "x", registry=teller._registry, multiprocess_mode="livesum").set(4)
    Histogram("seconds", "x", registry=teller._registry).observe(0.3)
    found = read()
    assert set(found) == {"orders", "depth", "seconds"}
    assert (found["orders"].kind, found["orders"].samples[0].value) == ("counter", 3)
    assert (found["depth"].mode, found["seconds"].mode) == ("livesum", "all")
    assert asks.asked == asked


def test_without_the_inner_parts_a_registry_is_collected(told, monkeypatch):
    teller, read = told
    monkeypatch.setattr(prometheus_internals, "knows_metrics", lambda: False)
    Gauge("depth", "x", registry=teller._registry, multiprocess_mode="livesum").set(4)
    assert [(one.name, one.mode) for one in read().values()] == [("depth", "all")]
    teller._registry = prometheus_client.REGISTRY
    assert not [name for name in read() if name.startswith(("python_", "process_"))]


def test_too_many_are_said_once(told, caplog):
    teller, read = told
    Counter("orders", "x" * (3 << 20), registry=teller._registry)
    assert read() is None
    assert read() is None
    assert caplog.text.count("this worker's metrics are too large to write") == 1


def test_a_metric_that_fails_is_left_out(told):
    teller, read = told
    Gauge("depth", "x", registry=teller._registry).set_function(lambda: 1 / 0)
    Gauge("width", "x", registry=teller._registry).set(1)
    assert list(read()) == ["width"]


def test_a_fault_in_everycore_is_reported_once(told, caplog, monkeypatch):
    _, read = told
    monkeypatch.setattr(prometheus_internals, "collected", lambda _: 1 / 0)
    assert read() is None
    assert read() is None
    assert caplog.text.count("cannot write this worker's metrics") == 1


def test_a_fork_writes_nothing(told, monkeypatch):
    teller, read = told
    counter = Counter("orders", "x", registry=teller._registry)
    assert read()["orders"].samples[0].value == 0
    if (child := os.fork()) == 0:
        counter.inc()
        teller.tell()
        teller.begin(prometheus_client)
        os._exit(teller._registry is prometheus_client.REGISTRY)
    assert os.waitpid(child, 0)[1] == 0
    counter.inc(5)
    monkeypatch.setattr(teller, "_process", 0)
    assert read()["orders"].samples[0].value == 0


def test_the_inner_parts_are_as_we_know_them():
    assert prometheus_internals.knows_metrics()
