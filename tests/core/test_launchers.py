"""Whether a program that has another one listen is warned, or refused. No process, no clock."""

import pytest

from everycore.core.launchers import TELL_AT, WAITS, Launch, Verdict, remedy

CHILD = 17


def verdicts(launch: Launch, *looks: tuple[float, int | None, bool]) -> list[Verdict]:
    return [launch.look(child, age, waits=waits) for age, child, waits in looks]


def test_one_that_only_waits_for_the_process_that_listens_is_refused():
    looks = verdicts(Launch(), (1, None, True), (2, CHILD, True), (1.9 + WAITS, CHILD, True))
    assert looks == [Verdict.NOTHING] * 3
    looks = verdicts(Launch(), (1, None, True), (2, CHILD, True), (2 + WAITS, CHILD, True))
    assert looks[-1] is Verdict.REFUSE


def test_that_is_said_once():
    looks = [(age, CHILD, True) for age in (1, 1 + WAITS, 2 + WAITS, 2 + TELL_AT, 3 * TELL_AT)]
    assert verdicts(Launch(), *looks)[1:] == [Verdict.REFUSE, *[Verdict.NOTHING] * 3]


@pytest.mark.parametrize("between", [(5, None, True), (5, CHILD, False)])
def test_the_wait_begins_anew_after_a_moment_without_it(between):
    looks = verdicts(Launch(), (2, CHILD, True), between, (6, CHILD, True), (5.9 + WAITS, CHILD, True))
    assert Verdict.REFUSE not in looks


def test_one_that_does_other_things_is_told_once_a_process():
    launch = Launch()
    looks = [(age, CHILD, False) for age in (2, 9, TELL_AT, TELL_AT + 5)]
    assert verdicts(launch, *looks) == [Verdict.NOTHING] * 2 + [Verdict.TELL, Verdict.NOTHING]
    assert launch.look(CHILD + 1, 40, waits=False) is Verdict.TELL


def test_one_of_which_no_process_listens_may_take_for_ever():
    assert set(verdicts(Launch(), (1, None, True), (1000, None, True))) == {Verdict.NOTHING}


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["/usr/bin/python3", "-m", "http.server", "8000"], "-m http.server 8000"),
        (["python3.11", "-u", "-X", "dev", "server.py", "--name", "a b"], "server.py --name 'a b'"),
        (["/venv/bin/python", "/venv/bin/uvicorn", "main:app"], "/venv/bin/uvicorn main:app"),
    ],
)
def test_the_other_program_is_to_be_started_itself(words, program):
    assert remedy(words) == f"start that program instead: everycore run {program}"


@pytest.mark.parametrize(
    "words",
    [
        ["python", "-c", "from multiprocessing.spawn import spawn_main; spawn_main()"],
        ["python", "-Bc", "pass", "-m", "x"],
        ["python"],
        ["nginx", "-g", "daemon off;"],
        ["python", "server.py", "x" * 300],
        ["python", "server.py", "\x1b[2J"],
        [],
    ],
)
def test_only_a_command_line_of_python_is_suggested(words):
    assert "in its first process" in remedy(words)
