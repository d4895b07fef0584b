"""An honest sender never breaks the window and never gets stuck."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core.window import WINDOW, WINDOW_BYTES, WINDOW_HANDLES, Incoming, Outgoing, Report
from everycore.errors import ProtocolError


@given(st.data())
def test_an_honest_pair_goes_on_for_ever(data):
    sender, receiver = Outgoing(), Incoming()
    sizes = data.draw(st.sampled_from([(0, 10), (0, WINDOW_BYTES // 3), (WINDOW_BYTES, 4 * WINDOW_BYTES)]))
    queue: list[int] = []
    reports: list[Report] = []
    for _ in range(data.draw(st.integers(1, 20))):
        for _ in range(data.draw(st.integers(0, 2 * WINDOW))):
            size = data.draw(st.integers(*sizes)) if len(queue) < 20 else sizes[0]
            if not sender.try_send(size):
                break
            receiver.arrived(size)  # never a violation
            queue.append(size)
        for _ in range(data.draw(st.integers(0, len(queue)))):
            if report := receiver.taken(queue.pop(0)):
                reports.append(report)  # noqa: PERF401 - as it happens, one by one
        if data.draw(st.booleans()):
            while reports:
                sender.took(*reports.pop(0))
    while queue:
        if report := receiver.taken(queue.pop(0)):
            reports.append(report)
    while reports:
        sender.took(*reports.pop(0))
    assert sender.try_send(4 * WINDOW_BYTES)  # all taken: any size may go next


def test_the_number_is_bounded():
    sender, receiver = Outgoing(), Incoming()
    for _ in range(WINDOW):
        assert sender.try_send(0)
        receiver.arrived(0)
    assert not sender.try_send(0)
    with pytest.raises(ProtocolError, match="1024 messages"):
        receiver.arrived(0)


def test_the_bytes_are_bounded_but_for_one_message():
    sender, receiver = Outgoing(), Incoming()
    for size in (WINDOW_BYTES - 1, 10 * WINDOW_BYTES):
        assert sender.try_send(size)
        receiver.arrived(size)
    assert not sender.try_send(0)
    with pytest.raises(ProtocolError, match="were sent and not taken"):
        receiver.arrived(0)


def test_a_quarter_is_reported_at_once():
    receiver = Incoming()
    for _ in range(WINDOW):
        receiver.arrived(1)
    reports = [receiver.taken(1) for _ in range(WINDOW)]
    assert [report for report in reports if report] == [(WINDOW // 4, WINDOW // 4, 0)] * 4
    receiver.arrived(WINDOW_BYTES)
    assert receiver.taken(WINDOW_BYTES) == (1, WINDOW_BYTES, 0)


@given(st.lists(st.one_of(st.integers(0, 9), st.integers(0, WINDOW_BYTES)), max_size=3 * WINDOW))
def test_what_passes_has_arrived_and_was_taken(sizes):
    one, other = Incoming(), Incoming()
    for size in sizes:
        one.arrived(size)
        assert other.passed(size) == one.taken(size)
    assert (one.count, one.size) == (other.count, other.size)


def test_what_passes_keeps_to_the_window():
    receiver = Incoming()
    for _ in range(WINDOW):
        receiver.arrived(0)
    with pytest.raises(ProtocolError, match="1024 messages"):
        receiver.passed(0)


@pytest.mark.parametrize("report", [(0, 0), (-1, 0), (3, 0), (1, -1), (1, 21)])
def test_a_report_of_more_than_was_sent_is_a_violation(report):
    sender = Outgoing()
    sender.try_send(10)
    sender.try_send(10)
    with pytest.raises(ProtocolError, match="were taken"):
        sender.took(*report)


def test_the_descriptors_are_bounded_and_counted_by_themselves():
    """A request's descriptor is taken when its handler begins; the request counts until it is answered."""
    sender, receiver = Outgoing(), Incoming()
    for _ in range(WINDOW_HANDLES):
        assert sender.try_send(1, 1)
        receiver.arrived(1, 1)
    assert not sender.try_send(1, 1)
    assert sender.try_send(1)
    reports = [receiver.handle_taken() for _ in range(WINDOW_HANDLES // 4)]
    assert [report for report in reports if report] == [(0, 0, WINDOW_HANDLES // 4)]
    sender.took(0, 0, WINDOW_HANDLES // 4)
    assert sender.try_send(1, WINDOW_HANDLES // 4)
    receiver.arrived(1, WINDOW_HANDLES // 4)
    with pytest.raises(ProtocolError, match="64 descriptors"):
        receiver.arrived(1, 1)


@pytest.mark.parametrize("report", [(0, 0, 2), (1, 1, -1), (0, 0, 0)])
def test_a_report_of_descriptors_that_were_not_sent_is_a_violation(report):
    sender = Outgoing()
    sender.try_send(10, 1)
    with pytest.raises(ProtocolError, match="were taken"):
        sender.took(*report)
