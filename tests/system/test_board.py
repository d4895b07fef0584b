"""The board: sealed memory with one writer for each field, and what workers conclude from it."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from everycore.core.lanes import COSTLY
from everycore.system import board, preemption
from everycore.system.board import (
    ACCEPTED,
    CAPACITY,
    IDLE,
    OPEN,
    ROW,
    SERVING,
    SIZE,
    Next,
    PrimaryBoard,
    WorkerBoard,
)
from tests.kit import VirtualClock


@pytest.fixture
def primary():
    made = PrimaryBoard()
    yield made
    made.close()


@pytest.fixture
def worker(primary):
    """Makes workers' views of the board, each with its own row."""
    made = []

    def make(row=None):
        made.append(WorkerBoard(os.dup(primary.fd), primary.allot() if row is None else row))
        return made[-1]

    yield make
    for view in made:
        view.close()


def in_another_process(fd, code):
    """Run `code` with the descriptor `fd` as `fd`. Returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import errno, fcntl, mmap, os\nfd = {fd}\n{code}"],
        pass_fds=[fd],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip()


class TestSeals:
    @pytest.mark.parametrize("size", [0, 4096, SIZE - 1, SIZE + 1, 2 * SIZE])
    def test_no_process_can_change_its_size(self, primary, size):
        """A shorter file would kill the primary by SIGBUS at its next access."""
        code = f"""
try:
    os.ftruncate(fd, {size})
except OSError as error:
    print(errno.errorcode[error.errno])
"""
        assert in_another_process(primary.fd, code) == "EPERM"
        assert os.fstat(primary.fd).st_size == SIZE
        assert primary.accepted(CAPACITY - 1) == 0

    def test_nor_take_the_seals_off_nor_forbid_the_others_to_write(self, primary):
        code = """
print(fcntl.fcntl(fd, fcntl.F_GET_SEALS))
try:
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
except OSError as error:
    print(errno.errorcode[error.errno])
"""
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        assert in_another_process(primary.fd, code).split() == [str(seals), "EPERM"]

    def test_what_another_process_writes_is_seen(self, primary):
        row = primary.allot()
        code = f"""
cells = memoryview(mmap.mmap(fd, {SIZE})).cast("q")
cells[{row * ROW + ACCEPTED}] = 1 << 62
"""
        in_another_process(primary.fd, code)
        assert primary.accepted(row) == 1 << 62

    def test_a_hole_punched_is_a_zero_and_no_end(self, primary, worker):
        view = worker()
        view.opened()
        code = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long({SIZE}))  # KEEP_SIZE | PUNCH_HOLE
"""
        in_another_process(primary.fd, code)
        assert primary.accepted(1) in (0, 1)
        view.opened()
        assert not view.should_yield(1.0)

    def test_it_is_not_inherited_unless_it_is_passed(self, primary):
        assert not os.get_inheritable(primary.fd)


class TestRows:
    def test_the_lowest_free_one_is_given_and_given_again(self, primary):
        assert [primary.allot() for _ in range(3)] == [1, 2, 3]
        primary.release(2)
        primary.release(1)
        assert [primary.allot() for _ in range(3)] == [1, 2, 4]

    def test_a_row_is_clean_for_its_next_worker(self, primary, worker):
        view = worker()
        view.opened()
        view.serving(True)
        view.idle(True)
        primary.release(1)
        assert primary.accepted(1) == 0
        assert primary.allot() == 1
        assert list(primary._cells[ROW : 2 * ROW]) == [0] * ROW

    def test_without_a_free_one_a_worker_does_without(self, primary, worker):
        rows = [primary.allot() for _ in range(CAPACITY - 1)]
        assert rows == list(range(1, CAPACITY))
        assert primary.allot() == 0
        view = worker(row=0)
        before = bytes(view._map)
        view.opened()
        view.closed()
        view.serving(True)
        view.idle(True)
        assert bytes(view._map) == before
        assert not view.should_yield(1.0)
        primary.release(0)
        assert primary.allot() == 0
        assert primary.accepted(0) == 0

    def test_each_worker_writes_its_own_row_and_nothing_else(self, primary, worker):
        views = [worker() for _ in range(3)]
        cells = primary._cells
        before = list(cells)
        views[1].opened()
        views[1].opened()
        views[1].closed()
        views[1].serving(True)
        views[1].idle(True)
        changed = {at: cells[at] for at in range(len(before)) if cells[at] != before[at]}
        at = 2 * ROW
        assert changed == {at + OPEN: 1, at + ACCEPTED: 2, at + SERVING: 1, at + IDLE: 1}

    def test_a_row_is_a_cache_line_of_aligned_words(self):
        assert ROW * 8 == 64
        assert SIZE == CAPACITY * 64
        assert max(OPEN, ACCEPTED, SERVING, IDLE) < ROW

    def test_it_counts_up_and_down(self, primary, worker):
        view = worker()
        for _ in range(5):
            view.opened()
        for _ in range(5):
            view.closed()
        assert primary.accepted(1) == 5
        assert primary._cells[ROW + OPEN] == 0


class TestServing:
    def test_one_of_several_listeners_may_go(self, worker):
        one, two = worker(), worker()
        two.idle(True)
        two.serving(True)
        two.serving(True)
        assert one.next(1.0) is not Next.ONLY_MINE
        two.serving(False)
        assert one.next(1.0) is not Next.ONLY_MINE
        two.serving(False)
        assert one.next(1.0) is Next.ONLY_MINE

    def test_a_departure_and_its_closing_servers_count_no_further_down(self, worker):
        one, two = worker(), worker()
        two.idle(True)
        two.serving(True)
        for _ in range(3):
            two.serving(False)
        two.serving(True)
        assert one.next(1.0) is not Next.ONLY_MINE


class TestWhoIsFree:
    def test_another_one_that_serves_and_waits(self, worker):
        me, other = worker(), worker()
        me.serving(True)
        me.idle(True)
        assert me.next(1.0) is Next.ONLY_MINE
        other.idle(True)
        assert me.next(1.0) is Next.ONLY_MINE
        other.serving(True)
        assert me.next(1.0) is not Next.ONLY_MINE
        other.idle(False)
        assert me.next(1.0) is Next.ONLY_MINE


class TestCost:
    """How long a loop is busy for a connection: the mean, on a clock that the test moves."""

    @pytest.fixture
    def view(self, worker, monkeypatch):
        self.clock = VirtualClock()
        monkeypatch.setattr(board, "_now", self.clock)
        monkeypatch.setattr(preemption, "_switches", lambda: 0)
        view = worker()
        view.idle(True)
        return view

    def turn(self, view, seconds):
        view.idle(False)
        self.clock.advance(seconds)
        view.idle(True)

    def test_several_turns_for_one_connection_add_up(self, view):
        for _ in range(50):
            view.opened()
            for _ in range(3):
                self.turn(view, COSTLY / 2)
        assert view.cost > COSTLY

    def test_one_turn_for_several_does_not(self, view):
        for _ in range(50):
            for _ in range(3):
                view.opened()
            self.turn(view, COSTLY * 2)
        assert view.cost <= COSTLY

    def test_to_wait_costs_nothing(self, view):
        for _ in range(50):
            view.opened()
            self.turn(view, COSTLY / 4)
            self.clock.advance(1)
        assert view.cost <= COSTLY

    def test_a_single_one_that_blocks_is_not_the_rule(self, view):
        for number in range(50):
            view.opened()
            self.turn(view, 10.0 if number == 20 else COSTLY / 4)
            assert view.cost <= COSTLY

    def test_since_when_may_be_told(self, view):
        for _ in range(50):
            view.opened()
            self.clock.advance(1)
            view.idle(False, since=self.clock.now - 2 * COSTLY)
            view.idle(True)
        assert view.cost > COSTLY


class TestWhoYields:
    @pytest.fixture
    def crowd(self, worker):
        """Serving workers with so many connections each; those in `busy` do not wait for events."""

        def make(*held, busy=()):
            views = [worker() for _ in held]
            for number, (view, count) in enumerate(zip(views, held, strict=True)):
                view.serving(True)
                view.idle(number not in busy)
                for _ in range(count):
                    view.opened()
            return views

        return make

    def test_a_worker_above_the_mean_and_the_margin_yields(self, crowd):
        views = crowd(5, 3, 2, 2)  # the mean is 3
        assert [view.should_yield(1.0) for view in views] == [True, False, False, False]
        assert [view.should_yield(2.0) for view in views] == [False] * 4

    def test_not_if_those_with_less_are_at_work(self, crowd):
        assert not crowd(9, 1, 1, busy=(1, 2))[0].should_yield(1.0)

    def test_not_if_the_waiting_workers_have_as_much(self, crowd):
        assert not crowd(9, 8, 1, busy=(2,))[0].should_yield(1.0)

    @pytest.mark.parametrize(
        ("held", "busy", "slack", "where"),
        [
            ((2,), (), 0, Next.MINE_TOO),
            ((2, 3), (), 0, Next.MINE_TOO),
            ((2, 2), (), 0, Next.ANOTHER),
            ((9, 1), (), 0, Next.NOT_MINE),
            ((9, 1), (1,), 0, Next.MINE_TOO),
            ((9, 1), (), 9, Next.MINE_TOO),
            ((9, 1), (), 8, Next.ANOTHER),
        ],
    )
    def test_a_worker_that_accepted_one_more_knows_where_the_next_one_goes(
        self, crowd, held, busy, slack, where
    ):
        view = crowd(*held, busy=busy)[0]
        assert view.accepted(1, 1.0, slack) is where
        assert view.held == held[0] + 1

    def test_alone_never(self, crowd):
        assert not crowd(100)[0].should_yield(1.0)

    def test_workers_that_do_not_serve_do_not_count(self, crowd):
        views = crowd(6, 2, 2)
        assert views[0].should_yield(1.0)
        for view in views[1:]:
            view.serving(False)
        assert not views[0].should_yield(1.0)

    def test_nonsense_on_the_board_does_no_harm(self, primary, crowd):
        """Values are hints: any process of the cluster may write anything."""
        view, other = crowd(3, 1)
        for value in (-1, 0, (1 << 63) - 1, -(1 << 63)):
            for at in range(len(primary._cells)):
                primary._cells[at] = value
            for each in (view, other):
                assert each.should_yield(1.0) in (True, False)
                assert each.next(1.0) in Next
                assert each.accepted(0, 1.0) in Next
                each.opened()
                each.closed()
            for at in range(len(primary._cells)):
                primary._cells[at] = value
            assert 0 <= primary.accepted(1) <= 1 << 62
            assert 0 <= primary.open(1) <= 1 << 24
            primary.release(1)
            assert primary.allot() == 1

    def test_a_worker_s_own_numbers_are_its_own(self, primary, worker):
        """The next connection overwrites what another process has written there."""
        view = worker()
        view.opened()
        primary._cells[ROW + OPEN] = primary._cells[ROW + ACCEPTED] = (1 << 63) - 1
        view.opened()
        assert (primary.open(1), primary.accepted(1)) == (2, 2)

    def test_a_worker_with_impossible_numbers_does_not_count(self, primary, crowd):
        views = crowd(6, 2, 2)
        assert views[0].should_yield(1.0)
        for nonsense in (-5, 1 << 40):
            primary._cells[2 * ROW + OPEN] = primary._cells[3 * ROW + OPEN] = nonsense
            assert not views[0].should_yield(1.0)


def test_a_kernel_that_refuses_keeps_nothing_open(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "no such seal")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(OSError, match="no such seal"):
        PrimaryBoard()
