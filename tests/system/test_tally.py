"""The memory in which workers leave their metrics: whole whenever a writer is killed, and allotted once."""

import os

import pytest

from everycore.system import tally as module
from everycore.system.tally import ObserverTally, PrimaryTally, SlotState, WorkerTally

#: Those of a test.
WORKERS: list[WorkerTally] = []


@pytest.fixture
def primary():
    made = PrimaryTally()
    yield made
    for worker in WORKERS:
        worker.close()
    WORKERS.clear()
    made.close()


@pytest.fixture
def observer(primary):
    made = ObserverTally(primary.fd)
    yield made
    made.close()


def worker_of(primary, number):
    slot = primary.allot(number)
    WORKERS.append(WorkerTally(os.dup(primary.fd), slot))
    return slot, WORKERS[-1]


def test_what_a_worker_leaves_is_read(primary, observer):
    slot, worker = worker_of(primary, 7)
    assert observer.owners() == {slot: (SlotState.TAKEN, 7)}
    assert observer.read(slot) is None
    for payload in (b"one", b"", b"three" * 1000):
        worker.write(payload)
        assert observer.read(slot) == payload


@pytest.mark.parametrize("broken", ["head", "length", "payload"])
def test_a_writing_that_was_cut_short_leaves_the_one_before(primary, observer, broken):
    slot, worker = worker_of(primary, 7)
    worker.write(b"first")
    worker.write(b"second")
    halves = worker._halves
    at = halves._at(halves._number % 2)
    place = {"head": at, "length": at + 8, "payload": at + module._HEAD.size}[broken]
    worker._memory[place : place + 2] = b"\xff\xff"
    assert observer.read(slot) == b"first"


def test_a_slot_is_another_workers_once_it_is_folded(primary, observer):
    slot, worker = worker_of(primary, 7)
    worker.write(b"seven")
    primary.leave(slot, 7)
    assert primary.allot(8) == slot + 1
    assert observer.owners()[slot] == (SlotState.LEFT, 7)
    assert observer.read(slot) == b"seven"
    observer.let_go(slot, 7)
    assert observer.owners() == {slot + 1: (SlotState.TAKEN, 8)}
    assert primary.allot(9) == slot
    assert observer.read(slot) is None


def test_pages_are_given_back(primary, observer):
    slot, worker = worker_of(primary, 7)
    before = os.fstat(primary.fd).st_blocks
    worker.write(b"x" * 2**20)
    assert os.fstat(primary.fd).st_blocks >= before + 2**20 // 512
    primary.leave(slot, 7)
    observer.let_go(slot, 7)
    assert os.fstat(primary.fd).st_blocks <= before + 16


def test_the_archive_is_another_observers_too(primary, observer):
    assert observer.archive() is None
    observer.keep(b"sums")
    other = ObserverTally(primary.fd)
    assert other.archive() == b"sums"
    other.keep(b"more")
    other.close()
    assert observer.archive() == b"more"


def test_without_folding_the_rows_run_out(primary, observer):
    for number in range(1, module.CAPACITY + 1):
        primary.leave(primary.allot(number), number)
    assert primary.allot(5000) == 0
    primary.leave(0, 5000)
    observer.let_go(3, 3)
    assert primary.allot(5001) == 3


def test_no_process_can_make_it_smaller(primary):
    with pytest.raises(PermissionError):
        os.ftruncate(primary.fd, 0)
