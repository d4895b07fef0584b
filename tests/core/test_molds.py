"""Which mold a worker comes from, in any order of events."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from everycore.core.molds import (
    CLOSED,
    WITHDRAWN,
    AskMold,
    EndMold,
    FailWorker,
    ForkOverdue,
    MoldAction,
    MoldGone,
    MoldInput,
    MoldLine,
    MoldPrepared,
    MoldRenewed,
    MoldsClosed,
    MoldsStale,
    RenewalCancelled,
    RenewalFailed,
    RenewMold,
    SpawnFresh,
    StartMold,
    WatchFork,
    WorkerBorn,
    WorkerLost,
    WorkerWanted,
    WorkerWithdrawn,
)


def serving(*workers: int) -> MoldLine:
    """A line with mold 1, which has made these workers."""
    line = MoldLine()
    for worker in workers or (1,):
        line.handle(WorkerWanted(worker))
        if line.serving is None:
            line.handle(MoldPrepared(1))
        line.handle(WorkerBorn(worker))
    return line


def test_the_first_worker_starts_the_mold_and_one_is_asked_for_at_a_time():
    line = MoldLine()
    assert line.handle(WorkerWanted(1)) == [StartMold(1)]
    assert line.handle(WorkerWanted(2)) == []
    assert line.handle(MoldPrepared(1)) == [AskMold(1, 1)]
    assert line.handle(WorkerBorn(1)) == [AskMold(1, 2)]
    assert line.handle(WorkerBorn(2)) == []
    assert line.handle(WorkerWanted(3)) == [AskMold(1, 3)]


def test_a_mold_that_cannot_be_prepared_fails_all_waiting_workers_and_the_next_tries_again():
    line = MoldLine()
    line.handle(WorkerWanted(1))
    line.handle(WorkerWanted(2))
    assert line.handle(MoldGone(1, "why")) == [FailWorker(1, "why"), FailWorker(2, "why")]
    assert line.handle(WorkerWanted(3)) == [StartMold(2)]


def test_a_renewal_lets_the_old_mold_serve_until_the_new_one_is_there():
    line = serving()
    assert line.handle(RenewMold(7)) == [StartMold(2)]
    assert line.handle(WorkerWanted(2)) == [AskMold(1, 2)]
    line.handle(WorkerBorn(2))
    assert line.handle(MoldPrepared(2)) == [EndMold(1), MoldRenewed(7)]
    assert line.handle(WorkerWanted(3)) == [AskMold(2, 3)]


def test_a_mold_that_is_asked_ends_after_its_answer():
    line = serving()
    line.handle(RenewMold(7))
    line.handle(WorkerWanted(2))
    assert line.handle(MoldPrepared(2)) == [MoldRenewed(7)]
    assert line.handle(WorkerBorn(2)) == [EndMold(1)]


def test_after_a_renewal_that_failed_workers_come_from_the_old_mold():
    line = serving()
    line.handle(RenewMold(7))
    assert line.handle(MoldGone(2, "broken")) == [RenewalFailed(7, "broken")]
    assert line.handle(WorkerWanted(2)) == [AskMold(1, 2)]


def test_a_later_renewal_has_a_mold_of_its_own():
    line = serving()
    line.handle(RenewMold(7))
    (ended, failed, started) = line.handle(RenewMold(8))
    assert (ended, started) == (EndMold(2), StartMold(3))
    assert isinstance(failed, RenewalFailed)
    assert line.handle(MoldPrepared(2)) == []  # sent before it knew
    assert line.handle(MoldPrepared(3)) == [EndMold(1), MoldRenewed(8)]


def test_a_mold_that_dies_is_made_anew_at_once_if_it_was_of_use():
    line = serving()
    assert line.handle(MoldGone(1, "killed")) == [StartMold(2)]
    line.handle(MoldPrepared(2))
    assert line.handle(MoldGone(2, "killed again")) == []
    assert line.handle(WorkerWanted(2)) == [StartMold(3)]


def test_the_worker_that_was_asked_of_a_mold_that_died_comes_from_the_next():
    line = serving()
    line.handle(WorkerWanted(2))
    assert line.handle(MoldGone(1, "killed")) == [StartMold(2)]
    assert line.handle(MoldPrepared(2)) == [AskMold(2, 2)]
    assert line.handle(MoldGone(2, "killed")) == [FailWorker(2, "killed")]  # the fork may be the cause


def test_a_mold_with_threads_is_not_forked_and_workers_are_fresh_until_a_renewal():
    line = MoldLine()
    line.handle(WorkerWanted(1))
    assert line.handle(MoldPrepared(1, may_fork=False)) == [EndMold(1), SpawnFresh(1)]
    assert line.handle(MoldGone(1, "killed")) == []
    assert line.handle(WorkerWanted(2)) == [SpawnFresh(2)]
    assert line.handle(RenewMold(7)) == [StartMold(2)]
    assert line.handle(MoldPrepared(2)) == [MoldRenewed(7)]
    assert line.handle(WorkerWanted(3)) == [AskMold(2, 3)]


def test_a_worker_that_is_not_wanted_any_more_does_not_wait():
    line = MoldLine()
    line.handle(WorkerWanted(1))
    assert line.handle(WorkerWithdrawn(1)) == [FailWorker(1, WITHDRAWN, withdrawn=True)]
    line.handle(WorkerWanted(2))
    line.handle(MoldPrepared(1))
    assert line.handle(WorkerWithdrawn(2)) == [WatchFork(2)]
    assert line.handle(ForkOverdue(2)) == [EndMold(1)]  # it is stuck
    assert line.handle(MoldGone(1, "killed")) == [FailWorker(2, "killed")]


def test_a_stuck_mold_that_answers_after_all_is_asked_for_no_worker():
    line = serving()
    line.handle(WorkerWanted(2))
    line.handle(WorkerWanted(3))
    line.handle(WorkerWithdrawn(2))
    assert line.handle(ForkOverdue(2)) == [EndMold(1)]
    line.handle(WorkerLost(2, "no memory"))
    assert line.asked is None
    assert line.coming == 2  # for worker 3
    assert line.handle(MoldPrepared(2)) == [AskMold(2, 3)]


def test_a_worker_that_came_in_time_is_not_overdue():
    line = serving()
    line.handle(WorkerWanted(2))
    line.handle(WorkerWithdrawn(2))
    line.handle(WorkerBorn(2))
    assert line.handle(ForkOverdue(2)) == []


def test_other_settings_hold_from_the_next_worker_on():
    line = serving()
    assert line.handle(MoldsStale()) == [EndMold(1)]
    assert line.handle(WorkerWanted(2)) == [StartMold(2)]


def test_the_end_fails_waiting_workers_and_ends_all_molds():
    line = serving()
    line.handle(RenewMold(7))
    line.handle(WorkerWanted(2))
    line.handle(WorkerWanted(3))
    actions = line.handle(MoldsClosed())
    assert RenewalFailed(7, CLOSED) in actions
    assert FailWorker(3, CLOSED, withdrawn=True) in actions
    assert {action.mold for action in actions if isinstance(action, EndMold)} == {1, 2}
    assert line.handle(MoldGone(1, "killed")) == [FailWorker(2, "killed")]
    assert line.handle(WorkerWanted(4)) == [FailWorker(4, CLOSED, withdrawn=True)]
    assert line.handle(RenewMold(8)) == [RenewalFailed(8, CLOSED)]


class Histories(RuleBasedStateMachine):
    """Workers, molds and renewals; `molds` maps live molds to whether they are prepared."""

    def __init__(self) -> None:
        super().__init__()
        self.line = MoldLine()
        self.molds: dict[int, bool] = {}
        self.ended: set[int] = set()
        self.wanted: set[int] = set()
        self.asked: dict[int, int] = {}
        self.renewals: set[int] = set()
        self.count = 0

    def tell(self, given: MoldInput) -> None:
        for action in self.line.handle(given):
            self.perform(action)

    def perform(self, action: MoldAction) -> None:
        match action:
            case StartMold(mold):
                assert mold not in self.molds
                self.molds[mold] = False
            case AskMold(mold, worker):
                assert self.molds[mold], "only a prepared mold is asked"
                assert mold not in self.ended
                assert not self.asked, "for one worker at a time"
                self.asked[mold] = worker
            case SpawnFresh(worker) | FailWorker(worker):
                self.wanted.remove(worker)
            case EndMold(mold):
                self.ended.add(mold)
            case MoldRenewed(request) | RenewalFailed(request):
                self.renewals.remove(request)

    @rule()
    def want(self) -> None:
        self.count += 1
        self.wanted.add(self.count)
        self.tell(WorkerWanted(self.count))

    @precondition(lambda self: self.wanted)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.tell(WorkerWithdrawn(data.draw(st.sampled_from(sorted(self.wanted)))))

    @precondition(lambda self: self.asked)
    @rule(is_there=st.booleans())
    def answer(self, *, is_there: bool) -> None:
        _, worker = self.asked.popitem()
        if is_there:
            self.wanted.remove(worker)
            self.tell(WorkerBorn(worker))
        else:
            self.tell(WorkerLost(worker, "no memory"))

    @precondition(lambda self: not all(self.molds.values()))
    @rule(data=st.data(), may_fork=st.booleans())
    def be_prepared(self, data: st.DataObject, *, may_fork: bool) -> None:
        mold = data.draw(
            st.sampled_from([mold for mold, is_prepared in self.molds.items() if not is_prepared])
        )
        self.molds[mold] = True
        self.tell(MoldPrepared(mold, may_fork))

    @precondition(lambda self: self.molds)
    @rule(data=st.data())
    def end_a_mold(self, data: st.DataObject) -> None:
        mold = data.draw(st.sampled_from(sorted(self.molds)))
        del self.molds[mold]
        self.asked.pop(mold, None)
        self.tell(MoldGone(mold, "killed"))

    @rule()
    def renew(self) -> None:
        self.count += 1
        self.renewals.add(self.count)
        self.tell(RenewMold(self.count))

    @rule(given=st.sampled_from([RenewalCancelled(), MoldsStale(), ForkOverdue(1)]))
    def disturb(self, given: MoldInput) -> None:
        if not (isinstance(given, MoldsStale) and self.renewals):  # a pool's settings are never stale
            self.tell(given)

    @precondition(lambda self: self.count > 12)
    @rule()
    def close(self) -> None:
        self.tell(MoldsClosed())

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        staying = {mold for mold in self.molds if mold not in self.ended}
        assert len(staying) <= 2 + bool(self.asked)
        if self.wanted or self.renewals:
            assert self.asked or staying, "something is under way"
        if self.wanted and not self.asked:
            assert not any(self.molds[mold] for mold in staying)

    def teardown(self) -> None:
        for _ in range(4 * (self.count + 2)):
            for mold in sorted(self.ended & set(self.molds)):
                del self.molds[mold]
                self.asked.pop(mold, None)
                self.tell(MoldGone(mold, "ended"))
            for mold in [mold for mold, is_prepared in self.molds.items() if not is_prepared]:
                self.molds[mold] = True
                self.tell(MoldPrepared(mold))
            if self.asked:
                self.answer(is_there=True)
        assert not self.wanted
        assert not self.renewals


@pytest.mark.slow
def test_histories():
    run_state_machine_as_test(Histories, settings=settings(max_examples=150, stateful_step_count=40))
