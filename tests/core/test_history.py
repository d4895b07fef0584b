"""When a worker was forked, and how the last one of a slot ended."""

from everycore.core.history import History, SlotHistory


def test_a_worker_has_an_age_until_it_ends():
    history = History()
    history.forked(1, 10.0)
    assert history.age(1, 12.5) == 2.5
    history.exited(1, 0, "exit status 0", 1000.0, voluntary=True)
    assert history.age(1, 20.0) == 0.0


def test_an_unrequested_end_is_a_restart():
    history = History()
    assert history.exited(1, 0, "killed by SIGKILL", 1000.0, voluntary=False) is False
    assert history.slots == {0: SlotHistory(1, "killed by SIGKILL, before it was ready", 1000.0)}
    history.ready(3)
    history.exited(3, 1, "killed by SIGKILL", 1000.0, voluntary=False)
    assert history.slots[1] == SlotHistory(1, "killed by SIGKILL", 1000.0)
    assert history.ends == {"killed by SIGKILL": 2}
    history.exited(2, 0, "exit status 0", 1001.0, voluntary=True)
    assert history.slots[0] == SlotHistory(1, "exit status 0 (as asked)", 1001.0)


def test_that_a_worker_was_ready_is_known_at_its_end():
    history = History()
    assert not history.was_ready
    history.ready(1)
    assert history.was_ready
    assert history.exited(1, 0, "exit status 0", 0.0, voluntary=True) is True
    assert history.exited(1, 0, "exit status 0", 0.0, voluntary=True) is False
