"""The sums over workers, whatever happens to them and to the observer."""

import os

import pytest

from everycore.core.tallies import OwnFamily, OwnSample, encode
from everycore.observer.gathering import Gatherer
from everycore.system.tally import ObserverTally, PrimaryTally, SlotState, WorkerTally


class Cluster:
    """Workers played by a test, on a real tally."""

    def __init__(self):
        self.primary = PrimaryTally()
        self.slots = {}
        self.tallies = []
        self.workers = []
        self.last = 0

    def start(self):
        self.last += 1
        slot = self.primary.allot(self.last)
        self.workers.append(WorkerTally(os.dup(self.primary.fd), slot))
        self.slots[self.last] = slot, self.workers[-1]
        return self.last

    def count(self, worker, value, name="orders"):
        family = OwnFamily(name, "x", "counter", "", "all", [OwnSample(f"{name}_total", {}, value)])
        self.slots[worker][1].write(encode([family]))

    def end(self, worker):
        self.primary.leave(self.slots.pop(worker)[0], worker)

    def observer(self):
        self.tallies.append(ObserverTally(self.primary.fd))
        return Gatherer(self.tallies[-1])

    def close(self):
        for tally in (*self.tallies, *self.workers):
            tally.close()
        self.primary.close()


@pytest.fixture
def cluster():
    made = Cluster()
    yield made
    made.close()


def total(gatherer):
    return sum(sample.value for metric in gatherer.metrics() for sample in metric.samples)


def test_the_dead_count_on(cluster):
    gatherer = cluster.observer()
    one, other = cluster.start(), cluster.start()
    cluster.count(one, 3)
    cluster.count(other, 4)
    assert total(gatherer) == 7
    cluster.end(one)
    assert total(gatherer) == 7
    cluster.count(cluster.start(), 10)
    assert total(gatherer) == 17
    assert [state for state, _ in gatherer._tally.owners().values()] == [SlotState.TAKEN] * 2


def test_another_observer_goes_on_with_the_sums(cluster):
    gatherer = cluster.observer()
    for value in (1, 2, 4):
        worker = cluster.start()
        cluster.count(worker, value)
        gatherer.fold()
        cluster.end(worker)
    assert total(cluster.observer()) == 7  # of the third, which was not folded before
    assert total(cluster.observer()) == 7


def test_an_observer_killed_between_keeping_and_letting_go_counts_no_worker_twice(cluster, monkeypatch):
    gatherer = cluster.observer()
    worker = cluster.start()
    cluster.count(worker, 5)
    cluster.end(worker)
    with monkeypatch.context() as patch:
        patch.setattr(gatherer._tally, "let_go", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gatherer.fold()
    again = cluster.observer()
    assert total(again) == 5
    assert again._tally.owners() == {}
    assert total(again) == 5


def test_what_cannot_be_read_is_left_out_and_told_once(cluster, caplog):
    gatherer = cluster.observer()
    liar, honest = cluster.start(), cluster.start()
    cluster.slots[liar][1].write(b"\xc1 nonsense")
    cluster.count(honest, 2)
    assert total(gatherer) == total(gatherer) == 2
    assert caplog.text.count("cannot read the metrics of worker 1") == 1
    cluster.end(liar)
    assert total(gatherer) == 2


def test_a_program_cannot_take_everycores_names(cluster):
    gatherer = cluster.observer()
    cluster.count(cluster.start(), 2, name="everycore_reloads")
    assert list(gatherer.metrics()) == []


def test_sums_that_do_not_fit_are_lost_and_said(cluster, caplog, monkeypatch):
    gatherer = cluster.observer()
    monkeypatch.setattr(ObserverTally, "most", 10)
    worker = cluster.start()
    cluster.count(worker, 5)
    cluster.end(worker)
    assert total(gatherer) == 0
    assert "too many metrics of ended workers" in caplog.text
