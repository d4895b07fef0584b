"""From counters to metrics: each one of the catalogue once, with its labels, as Prometheus reads it."""

import itertools
import os

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as from_plain_text

from everycore.observer import families as module
from everycore.observer.catalogue import CATALOGUE, PREFIX
from everycore.observer.families import Shares, families
from tests.kit import observed


class Given:
    def __init__(self, found):
        self.found = found

    def collect(self):
        return self.found


@pytest.fixture
def found():
    told = observed.status(observed.worker(1, pid=os.getpid()), observed.worker(2, is_ready=False))
    return list(families(observed.metrics(told), Shares()))


def samples(found):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for one in found for sample in one.samples
    }


def test_every_metric_of_the_catalogue_is_there_once(found):
    assert sorted(one.name.removeprefix(PREFIX) for one in found) == sorted(CATALOGUE)


def test_every_sample_has_the_labels_of_its_metric(found):
    for one in found:
        described = CATALOGUE[one.name.removeprefix(PREFIX)]
        for sample in one.samples:
            assert set(sample.labels) - {"le"} == set(described.labels), sample


@pytest.mark.parametrize(
    ("encode", "read"),
    [
        (openmetrics.generate_latest, text_string_to_metric_families),
        (generate_latest, from_plain_text),
    ],
    ids=["openmetrics", "text"],
)
def test_both_formats_say_the_same(found, encode, read):
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Given(found))
    assert samples(read(encode(registry).decode())) == pytest.approx(samples(found))


def test_a_histogram_is_cumulative(found):
    known = samples(found)
    name = "everycore_hand_over_wait_seconds"
    assert known[f"{name}_bucket", ("le", "5e-05")] == 2
    assert known[f"{name}_bucket", ("le", "0.01")] == 2
    assert known[f"{name}_bucket", ("le", "0.025")] == 3
    assert known[f"{name}_bucket", ("le", "10.0")] == 3
    assert known[f"{name}_bucket", ("le", "+Inf")] == known[f"{name}_count",] == 4
    assert known[f"{name}_sum",] == pytest.approx(99.02008)


def test_what_is_not_known_is_not_there(found):
    known = samples(found)
    assert not any(name == "everycore_worker_loop_lag_seconds" and ("worker", "2") in labels
                   for name, *labels in known)  # fmt: skip
    assert ("everycore_listener_backlog", ("listener", "unix:/x")) not in known
    assert known["everycore_listener_backlog", ("listener", "127.0.0.1:80")] == 4
    assert known["everycore_workers", ("state", "starting")] == 1


def test_a_share_of_memory_is_looked_at_now_and_then(monkeypatch):
    looks = itertools.count(1)
    monkeypatch.setattr(module, "proportional_bytes", lambda _: next(looks))
    shares = Shares()
    assert shares.of([5, 6], 0.0) == {5: 1, 6: 2}
    assert shares.of([5, 6], 9.9) == {5: 1, 6: 2}
    assert shares.of([6], 10.0) == {6: 3}
    assert shares.of([5, 6], 11.0) == {5: 4, 6: 3}  # another process may have that number by now
