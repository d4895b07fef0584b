"""What a signal does to every kind of process: the tables, and a process that runs by them."""

import pytest

from everycore.core.stopping import (
    COMMAND,
    GUEST,
    PROGRAM,
    SAME_REQUEST,
    WORKER,
    Machine,
    PrimaryStage,
    StopAction,
    StopInput,
    WorkerStage,
    is_unheard,
    signals_of,
)

SOON, LATER = SAME_REQUEST / 2, SAME_REQUEST * 2
TERM, INT, QUIT = StopInput.TERM, StopInput.INT, StopInput.QUIT
PRIMARIES = pytest.mark.parametrize("table", [PROGRAM, COMMAND], ids=["program", "command"])
WORKERS = pytest.mark.parametrize("table", [WORKER, GUEST], ids=["worker", "guest"])


def run(machine, *inputs, apart=LATER):
    """Feed the inputs, one after the other. Returns what each orders."""
    return [machine.take(what, 1000.0 + apart * number) for number, what in enumerate(inputs)]


def primary(table):
    return Machine(table, PrimaryStage.RUNNING)


def worker(table, *before):
    machine = Machine(table, WorkerStage.PROGRAM)
    run(machine, *before)
    return machine


# The tables as such


@PRIMARIES
def test_a_primary_has_a_step_for_whatever_can_happen(table):
    # Before a signal has come, nothing waits for the last worker.
    never = {(PrimaryStage.RUNNING, StopInput.ALL_GONE)}
    wanted = {(stage, what) for stage in PrimaryStage for what in (*signals_of(table), StopInput.ALL_GONE)}
    assert set(table) == wanted - never


@WORKERS
def test_a_worker_has_a_step_for_whatever_can_happen(table):
    inputs = set(StopInput) - {QUIT, StopInput.ALL_GONE}
    assert set(table) == {(stage, what) for stage in WorkerStage for what in inputs}


@pytest.mark.parametrize(
    ("table", "named"),
    [(PROGRAM, (TERM, INT)), (COMMAND, (TERM, INT, QUIT)), (WORKER, (TERM, INT)), (GUEST, (TERM, INT))],
)
def test_signals_that_a_table_names(table, named):
    assert signals_of(table) == named


@PRIMARIES
def test_nothing_but_a_signal_leads_a_primary_out_of_running(table):
    assert {what for (stage, what) in table if stage is PrimaryStage.RUNNING} <= {TERM, INT, QUIT}


@pytest.mark.parametrize("table", [PROGRAM, COMMAND, WORKER, GUEST])
def test_a_second_term_changes_nothing(table):
    """A supervisor may repeat it at any time."""
    stages = {stage for stage, _ in table}
    for stage in stages:
        machine = Machine(table, stage)
        machine.take(TERM, 1000.0)
        once = machine.stage
        assert (machine.take(TERM, 1000.0 + LATER), machine.stage) == ((), once), stage


def test_a_worker_never_goes_back():
    """A worker that is to leave does: no input leads back to a stage in which it would go on serving."""
    leaving = {
        WorkerStage.WAITING,
        WorkerStage.ENDED,
        WorkerStage.NOTED,
        WorkerStage.ASKED,
        WorkerStage.LEAVING,
        WorkerStage.DEAF,
    }
    for (stage, what), step in WORKER.items():
        assert stage not in leaving or step.after in leaving, (stage, what)


# A primary


@PRIMARIES
@pytest.mark.parametrize("signal", [TERM, INT])
def test_the_first_one_asks(table, signal):
    machine = primary(table)
    (actions,) = run(machine, signal)
    assert [action for action in actions if action is not StopAction.TELL] == [StopAction.ASK]
    assert machine.stage is PrimaryStage.STOPPING


@PRIMARIES
@pytest.mark.parametrize(
    ("came", "apart", "ended"),
    [
        ([TERM, TERM, TERM], LATER, False),
        ([TERM, INT], LATER, True),
        ([TERM, INT], SOON, True),
        ([INT, TERM], LATER, False),
        ([INT, INT], LATER, True),
        ([INT, INT], SOON, False),
        ([INT, INT, INT], SOON, False),
        ([INT, INT, INT, INT], SOON, False),
        ([INT, TERM, INT], LATER, True),
    ],
)
def test_int_ends_at_once_what_was_asked_to_stop(table, came, apart, ended):
    machine = primary(table)
    actions = [action for step in run(machine, *came, apart=apart) for action in step]
    assert (StopAction.CANCEL in actions) is ended
    assert actions.count(StopAction.ASK) == 1
    assert machine.stage is (PrimaryStage.ENDING if ended else PrimaryStage.STOPPING)


def test_quit_ends_at_once_with_stacks():
    for before in ([], [TERM], [INT]):
        machine = primary(COMMAND)
        assert run(machine, *before, QUIT)[-1] == (StopAction.DUMP, StopAction.CANCEL)
        assert run(machine, TERM, INT, QUIT) == [(), (), ()]


def test_main_of_a_program_is_cancelled_when_all_are_gone():
    assert run(primary(PROGRAM), TERM, StopInput.ALL_GONE)[-1] == (StopAction.CANCEL,)


def test_a_command_ends_by_itself_when_all_are_gone():
    assert run(primary(COMMAND), TERM, StopInput.ALL_GONE)[-1] == ()


# A worker without everycore's loop


@WORKERS
@pytest.mark.parametrize("signal", [TERM, INT])
def test_it_waits_and_is_told_to_end(table, signal):
    machine = worker(table)
    assert run(machine, signal, signal, StopInput.WAITED) == [(StopAction.WAIT,), (), (StopAction.EXIT,)]
    assert machine.stage is WorkerStage.ENDED
    assert run(machine, TERM, INT, StopInput.WAITED) == [(), (), ()]


@WORKERS
def test_no_thread_is_started_once_the_main_thread_is_done(table):
    assert run(worker(table), StopInput.LATE) == [(StopAction.WAIT_HERE, StopAction.EXIT)]


@WORKERS
def test_a_signal_in_the_moment_in_which_the_loop_begins_is_noted(table):
    """The waiting thread repeats the input if its stage was overwritten."""
    machine = Machine(table, WorkerStage.MAKING)
    assert is_unheard(table, machine.stage)
    run(machine, StopInput.WAITED)
    assert machine.stage is WorkerStage.NOTED
    assert not is_unheard(table, machine.stage)


def test_a_step_that_stays_does_not_undo_a_signal_that_comes_meanwhile():
    class Interrupted(dict):
        def __getitem__(self, key):
            machine.stage = WorkerStage.WAITING  # as a Python signal handler does, between two instructions
            return super().__getitem__(key)

    machine = Machine(Interrupted(WORKER), WorkerStage.PROGRAM)
    machine.take(StopInput.DEPARTS, 1000.0)
    assert machine.stage is WorkerStage.WAITING


@pytest.mark.parametrize(("table", "ended"), [(WORKER, False), (GUEST, True)])
def test_where_a_repeated_signal_is_to_be_heard(table, ended):
    unheard = {stage for stage in WorkerStage if is_unheard(table, stage)}
    assert unheard == {WorkerStage.WAITING, WorkerStage.MAKING} | ({WorkerStage.ENDED} if ended else set())


def test_a_guest_is_told_until_it_ends():
    told = [TERM, StopInput.WAITED, StopInput.WAITED_LATE]
    assert run(worker(GUEST), *told)[-1] == (StopAction.EXIT,)
    assert run(worker(WORKER), *told)[-1] == ()


# A worker with everycore's loop


@WORKERS
@pytest.mark.parametrize("signal", [TERM, INT])
@pytest.mark.parametrize(
    "came", ["before the loop", "while it is made", "told to end before"], ids=lambda text: text
)
def test_a_signal_before_the_loop_runs_is_noted(table, signal, came):
    match came:
        case "before the loop":
            machine = worker(table, signal, StopInput.LOOP_BEGINS)
        case "while it is made":
            machine = worker(table, StopInput.LOOP_BEGINS, signal)
        case _:
            machine = worker(table, signal, StopInput.WAITED, StopInput.LOOP_BEGINS)
    assert run(machine, TERM, INT, StopInput.WAITED) == [(), (), ()]
    assert run(machine, StopInput.LOOP_RUNS) == [(StopAction.LEAVE,)]


@WORKERS
@pytest.mark.parametrize("hears", [StopInput.LOOP_HEARS_TERM, StopInput.LOOP_HEARS_INT])
@pytest.mark.parametrize("python_first", [True, False])
def test_a_loop_that_hears_leaves(table, hears, python_first):
    machine = worker(table, StopInput.LOOP_BEGINS, StopInput.LOOP_RUNS)
    if python_first:
        assert run(machine, TERM) == [(StopAction.GUARD,)]
    assert run(machine, hears, TERM) == [(StopAction.LEAVE,), ()]
    assert run(machine, StopInput.DEPARTS, StopInput.WAITED, StopInput.LOOP_HEARS_TERM) == [(), (), ()]


@WORKERS
def test_a_deaf_loop_dies(table):
    machine = worker(table, StopInput.LOOP_BEGINS, StopInput.LOOP_RUNS)
    assert run(machine, TERM, TERM, StopInput.WAITED) == [(StopAction.GUARD,), (), (StopAction.DIE,)]


@WORKERS
def test_a_second_int_cancels_main(table):
    machine = worker(table, StopInput.LOOP_BEGINS, StopInput.LOOP_RUNS)
    heard = [StopInput.LOOP_HEARS_INT, StopInput.LOOP_HEARS_INT]
    assert run(machine, *heard) == [(StopAction.LEAVE,), (StopAction.CANCEL,)]


@WORKERS
@pytest.mark.parametrize(("apart", "cancels"), [(SOON, ()), (LATER, (StopAction.CANCEL,))])
def test_one_ctrl_c_of_which_the_primary_tells_first_is_one_request(table, apart, cancels):
    machine = worker(table, StopInput.LOOP_BEGINS, StopInput.LOOP_RUNS)
    assert run(machine, StopInput.DEPARTS, StopInput.LOOP_HEARS_INT, apart=apart) == [(), cancels]


@WORKERS
@pytest.mark.parametrize(
    ("before", "stage", "actions"),
    [
        ([], WorkerStage.PROGRAM, (StopAction.WAIT,)),
        ([TERM], WorkerStage.ENDED, ()),
        ([StopInput.DEPARTS], WorkerStage.ENDED, ()),
    ],
    ids=["goes on", "was asked", "departed"],
)
def test_after_the_loop(table, before, stage, actions):
    machine = worker(table, StopInput.LOOP_BEGINS, StopInput.LOOP_RUNS, *before, StopInput.LOOP_ENDS)
    assert machine.stage is stage
    assert run(machine, TERM) == [actions]


@WORKERS
def test_a_loop_that_could_not_be_made(table):
    assert worker(table, StopInput.LOOP_BEGINS, StopInput.LOOP_ENDS).stage is WorkerStage.PROGRAM
    assert worker(table, StopInput.LOOP_BEGINS, TERM, StopInput.LOOP_ENDS).stage is WorkerStage.ENDED
