"""Signals held back for a moment, and those that everycore handles."""

import os
import signal
import threading

import pytest

from everycore.held_signals import held, start_helper
from everycore.system import forked_signals, inherited

USED = signal.SIGUSR1


def blocked():
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.fixture(autouse=True)
def surroundings():
    """No test may leave another signal mask or handler behind."""
    mask, handler = blocked(), signal.getsignal(USED)
    yield
    signal.signal(USED, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_a_held_signal_comes_at_the_end_of_the_block():
    came = []
    signal.signal(USED, lambda number, _: came.append(number))
    with held(USED):
        signal.raise_signal(USED)
        assert came == []
    assert came == [USED]


def test_what_was_blocked_before_stays_blocked():
    signal.pthread_sigmask(signal.SIG_BLOCK, {USED})
    with held(USED):
        pass
    assert USED in blocked()


@pytest.mark.parametrize("held_back", [(USED,), (signal.SIGUSR2,)])
def test_what_is_heard_within_a_block_is_not_blocked_again_by_its_end(held_back):
    signal.pthread_sigmask(signal.SIG_BLOCK, {USED})
    with held(*held_back), held(*held_back):
        inherited.hear((USED,))
    assert USED not in blocked()


def test_a_helper_thread_leaves_signals_to_the_main_one():
    found, is_done = [], threading.Event()

    def work(*args):
        found.append((args, {signal.SIGINT, signal.SIGTERM} <= blocked()))
        is_done.set()

    start_helper(work, 1, 2)
    is_done.wait()
    assert found == [((1, 2), True)]
    assert not {signal.SIGINT, signal.SIGTERM} & blocked()


class TestHandleUnused:
    def handler(self, number, frame):
        pass

    def test_it_takes_an_unhandled_signal_though_it_was_blocked(self):
        signal.signal(USED, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {USED})
        handler = self.handler
        assert forked_signals.handle_unused(USED, handler)
        assert signal.getsignal(USED) is handler
        assert USED not in blocked()

    @pytest.mark.parametrize("others", [signal.SIG_IGN, lambda *_: None])
    def test_it_leaves_one_that_is_ignored_or_handled_elsewhere(self, others):
        signal.signal(USED, others)
        signal.pthread_sigmask(signal.SIG_BLOCK, {USED})
        assert not forked_signals.handle_unused(USED, self.handler)
        assert signal.getsignal(USED) is others
        assert USED in blocked()

    def test_it_does_nothing_in_another_thread(self):
        signal.signal(USED, signal.SIG_DFL)
        answers = []
        thread = threading.Thread(
            target=lambda: answers.append(forked_signals.handle_unused(USED, self.handler))
        )
        thread.start()
        thread.join()
        assert answers == [False]
        assert signal.getsignal(USED) is signal.SIG_DFL

    def test_a_fork_has_the_default_again(self):
        signal.signal(USED, signal.SIG_DFL)
        assert forked_signals.handle_unused(USED, self.handler)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if signal.getsignal(USED) is signal.SIG_DFL else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
