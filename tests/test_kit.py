"""The kit must be able to fail: tests for leaks, limits, loops and programs."""

import ast
import asyncio
import faulthandler
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.kit import (
    Program,
    ProgramFailure,
    VirtualClock,
    children,
    descendants,
    limits,
    open_fds,
    process_tree,
    scaled,
    turn,
    wait_gone,
    wait_readable,
)
from tests.kit.folders import ROOT
from tests.kit.leaks import Surroundings
from tests.kit.loops import run_test
from tests.kit.variants import left_out

# Variants


@pytest.mark.parametrize("axes", [(2,), (2, 2), (2, 2, 2), (3,), (3, 2), (5, 2), (2, 7)], ids=str)
@pytest.mark.parametrize("test", ["one", "two", "three", "four"])
def test_every_variant_is_run_on_one_python_or_another_and_every_value_on_each(axes, test):
    variants = {
        str(values): dict(zip("abc", values, strict=False)) | {"varies like a": -values[0]}
        for values in itertools.product(*map(range, axes))
    }
    halves = [set(variants) - left_out(test, variants, minor) for minor in (11, 15)]
    assert halves[0] | halves[1] == set(variants)
    assert not halves[0] & halves[1]
    for half in halves if len(axes) > 1 else []:
        for axis, values in enumerate(axes):
            assert {ast.literal_eval(variant)[axis] for variant in half} == set(range(values))


def test_one_without_others_is_always_run():
    for minor in range(11, 16):
        assert left_out("one", {}, minor) == left_out("one", {"it": {}}, minor) == set()
        assert left_out("one", {"it": {"policy": "shared"}}, minor) == set()


# The clock


def test_virtual_clock_moves_only_when_told():
    clock = VirtualClock(10)
    assert (clock.now, clock()) == (10, 10)
    assert clock.advance(2.5) == 12.5
    assert clock.advance_to(20) == clock.now == 20
    with pytest.raises(ValueError, match="go back"):
        clock.advance(-1)


# Leaks


def test_sees_a_descriptor_opened_and_one_closed():
    kept, closed = socket.socketpair()
    before = Surroundings.now()
    gone = closed.fileno()
    closed.close()
    extra = os.dup(kept.fileno())
    # Close and dup may meet in one number; then it is one change of what is behind it.
    changes = before.changes()
    assert any(f"descriptor {gone} " in change for change in changes)
    assert any(f"descriptor {extra} is open: socket:" in change for change in changes)
    os.close(extra)
    kept.close()


class Holder:
    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def test_an_object_that_only_a_cycle_holds_is_not_a_leak():
    before = Surroundings.now()
    cycle: list[object] = [Holder(os.open(os.devnull, os.O_RDONLY))]
    cycle.append(cycle)
    del cycle
    assert before.changes() == []


def test_sees_children_threads_handlers_and_blocked_signals():
    before = Surroundings.now()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    thread.start()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

    changes = "\n".join(before.changes())

    before.restore()
    end.set()
    thread.join()
    child.returncode = -signal.SIGKILL  # restore() took its status
    child.communicate()
    assert f"child process {child.pid} " in changes
    assert "thread forgotten" in changes
    assert "SIGUSR1 is handled by" in changes
    assert "blocked signals are ['SIGUSR2']" in changes
    assert before.changes() == []


@pytest.mark.ci_only
@pytest.mark.slow
def test_the_fixture_fails_a_test_that_leaks_and_tidies_up_for_the_next(inner_run):
    result = inner_run(
        """
        import asyncio, os, signal, subprocess
        def test_descriptor():
            os.pipe()
        def test_child():
            subprocess.Popen(["sleep", "1000"]).returncode = 0
        def test_handler():
            signal.signal(signal.SIGUSR1, print)
        async def test_task():
            asyncio.get_running_loop().keep = asyncio.create_task(asyncio.Event().wait())
        def test_clean_again():
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        def test_failed_anyway():
            os.pipe()
            assert False
        """
    )
    result.assert_outcomes(passed=4, failed=2, errors=3)
    result.stdout.fnmatch_lines_random(
        ["*descriptor * is open: pipe:*", "*child process *sleep 1000*", "*SIGUSR1 is handled by*"]
    )
    result.stdout.fnmatch_lines(["*left tasks pending*"])


# Limits


@pytest.mark.parametrize(
    ("line", "factor"),
    [
        ("0.00 0.01 0.05 1/138 4711", 1),  # idle
        ("6.00 3.00 1.00 1/138 4711", 3),  # busy in the last minute
        ("0.50 0.20 0.10 8/138 4711", 4),  # and busy since a moment ago
        (None, 1),  # no load average
    ],
)
def test_a_limit_grows_with_the_load(monkeypatch, tmp_path, line, factor):
    path = tmp_path / "loadavg"
    if line is not None:
        path.write_text(line + "\n")
    monkeypatch.setattr(limits, "_LOADAVG", str(path))
    monkeypatch.setattr(limits, "_SLOWNESS", 2.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert scaled(10) == 10 * 2 * factor


@pytest.mark.ci_only
@pytest.mark.slow
def test_a_test_over_its_limit_fails_with_stacks_and_the_run_goes_on(inner_run):
    result = inner_run(
        """
        import asyncio, os, pytest
        @pytest.mark.limit(0.3)
        def test_blocked_in_a_system_call():
            read, write = os.pipe()
            os.read(read, 1)
        @pytest.mark.limit(0.3)
        async def test_blocked_in_the_loop():
            await asyncio.Event().wait()
        def test_goes_on():
            pass
        """
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*time limit of * s exceeded*",
            "*still running after * s*",
            "*in test_blocked_in_a_system_call*",
        ]
    )


@pytest.mark.ci_only
@pytest.mark.slow
def test_an_example_has_no_limit_of_its_own(inner_run, monkeypatch):
    """Hypothesis allows 0.2 s for each, except in CI: a stalled machine is not the test's fault."""
    monkeypatch.delenv("CI", raising=False)
    result = inner_run(
        """
        import threading
        from hypothesis import given, strategies

        @given(strategies.just(0.3))
        def test_one_that_stalls(seconds):
            threading.Event().wait(seconds)
        """
    )
    result.assert_outcomes(passed=1)


@pytest.mark.ci_only
@pytest.mark.slow
def test_a_test_that_resists_its_limit_ends_the_run_with_stacks(inner_run):
    result = inner_run(
        """
        import os, pytest, signal
        from tests.kit import limits
        limits.LAST_WORD = 0.2
        @pytest.mark.limit(0.2)
        def test_deaf():
            signal.pthread_sigmask(signal.SIG_BLOCK, [limits.INTERRUPT])
            read, write = os.pipe()
            os.read(read, 1)
        """
    )
    assert result.ret == 1
    result.stderr.fnmatch_lines(["Timeout (*", "*in test_deaf*"])


@pytest.mark.parametrize("ends_now", [True, False])
def test_a_process_that_waits_for_others_when_its_tests_are_over_is_not_ended(monkeypatch, ends_now):
    """A worker of pytest-xdist: where another one had a long test, its stacks were printed."""
    ends: list[float] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **_: ends.append(seconds))
    limits.Watchdog(2).close(ends_now=ends_now)
    assert len(ends) == ends_now


# Loops


async def test_async_tests_just_run():
    assert asyncio.get_running_loop().get_debug() is False


async def test_async_tests_take_fixtures(tmp_path):
    assert tmp_path.is_dir()


class TestMethods:
    async def test_async_methods_run_too(self, tmp_path):
        await turn()
        assert tmp_path.is_dir()


def test_an_error_only_the_loop_heard_of_fails_the_test():
    def bad() -> None:
        raise LookupError("nobody asked")

    async def body() -> None:
        asyncio.get_running_loop().call_soon(bad)
        await turn(2)

    with pytest.raises(LookupError, match="nobody asked"):
        run_test(body, {}, None)


def test_the_loop_factory_is_used():
    made = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.new_event_loop())
        return made[-1]

    async def body() -> None:
        assert asyncio.get_running_loop() is made[0]

    run_test(body, {}, factory)
    assert made[0].is_closed()


# Processes and programs

FAMILY = """
    import os, subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import sys; print('child', flush=True); input()"])
    print("ready", os.getpid(), child.pid, flush=True)
    child.wait()
"""


def test_expect_finds_lines_in_turn(start_program):
    program = start_program("for word in ('one', 'two', 'two', 'three'): print(word)")
    assert program.expect("o").string == "one"
    assert program.expect("t(.)o")[1] == "w"
    assert program.expect("t").string == "two"
    assert program.expect("^three$")
    with pytest.raises(ProgramFailure, match="ended, no line with 'four'"):
        program.expect("four")
    assert program.wait() == 0
    assert program.stdout == "one\ntwo\ntwo\nthree\n"


def test_expect_gives_up_in_time(start_program):
    program = start_program("print('half', end='', flush=True); input()")
    with pytest.raises(ProgramFailure, match=r"within 0.05 s; running"):
        program.expect("half", timeout=0.05)
    program.write("\n")
    assert program.expect("half")


def test_arguments_environment_and_flags(start_program, monkeypatch):
    monkeypatch.setenv("EVERYCORE_WORKERS", "17")
    program = start_program(
        """
        import os, sys
        print(sys.argv[1:], os.environ.get("EVERYCORE_WORKERS"), os.environ["WORD"], sys.flags.optimize)
        print("to stderr", file=sys.stderr)
        sys.exit(3)
        """,
        "a", "b", env={"WORD": "x"}, flags=["-O"],
    )  # fmt: skip
    assert program.wait() == 3
    assert program.stdout == "['a', 'b'] None x 1\n"
    assert program.expect("stderr", stream="stderr")


def test_much_output_does_not_block(start_program):
    program = start_program("print('x' * 5_000_000); print('end')")
    assert program.wait() == 0
    assert program.stdout.endswith("\nend\n")


def test_signals_and_statuses(start_program, start_command):
    program = start_program("print('up'); input()")
    program.expect("up")
    program.signal(signal.SIGINT)
    assert program.wait() == -signal.SIGINT

    other = start_command(
        [sys.executable, "-c", "import os; print(os.getcwd(), flush=True); input()"], cwd="/"
    )
    assert other.expect("^/$")
    assert other.finish() == -signal.SIGTERM


def test_a_program_still_running_at_the_end_is_killed_with_all_its_tree(tmp_path):
    with Program.script(FAMILY, folder=tmp_path) as program:
        pid, child = map(int, re.findall(r"\d+", program.expect("ready").string))
        assert program.descendants() == descendants(pid) == children(pid) == [child]
        assert set(program.processes()) == {pid, child}
        assert len(process_tree(pid).splitlines()) == 2
        assert open_fds(pid)[1].startswith("pipe:")
    assert wait_gone([pid, child], timeout=0) == []


DESERTER = """
    import subprocess, sys
    child = subprocess.Popen(["sleep", "1000"], {}stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    child.returncode = 0
    print("child", child.pid)
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "start_new_session=True, ", "start_new_session=True, env={}, "])
def test_a_process_that_outlives_the_program_fails_the_block_and_is_killed(tmp_path, options, monkeypatch):
    monkeypatch.setattr(
        Program, "_survivors", lambda self: [pid for pid in self.processes() if pid != self.pid]
    )
    program = Program.script(DESERTER.replace("{}", options, 1), folder=tmp_path)
    child = int(program.expect(r"child (\d+)")[1])
    program.wait()
    if "env" in options:
        # Outside the session, the family and the environment: it looks like any other process.
        os.kill(child, signal.SIGKILL)
        program.close()
    else:
        with pytest.raises(ProgramFailure, match=rf"left processes behind:\n{child} S sleep 1000"):
            program.close()
    assert wait_gone([child]) == []


def test_a_failing_block_tells_everything(tmp_path, capsys):
    with (
        pytest.raises(ProgramFailure, match="no line with 'never'"),
        Program.script(FAMILY, folder=tmp_path) as program,
    ):
        program.expect("ready")
        program.expect("child")
        program.expect("never", timeout=0.05)
    said = capsys.readouterr().err
    assert "running" in said
    assert re.search(rf"^{program.pid} S .*program.py\n  \d+ S .*input", said, re.MULTILINE)
    assert "---- stdout\nready" in said


def test_wait_readable():
    left, right = socket.socketpair()
    with left, right:
        assert not wait_readable(left.fileno(), 0)
        right.send(b"x")
        assert wait_readable(left.fileno(), 1)


def test_wait_gone_returns_the_processes_that_are_left(start_command):
    program = start_command(["sleep", "1000"])
    assert wait_gone([program.pid, 2**22 - 1], timeout=0.05) == [program.pid]


@pytest.fixture
def inner_run(pytester, monkeypatch):
    """Run a test file under the kit in a separate pytest."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\nmarkers = limit: x\n")
    pytester.makeconftest('pytest_plugins = ["tests.kit.plugin"]')

    def run(source: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess(
            "-p", "no:cacheprovider", "-p", "no:hypothesispytest", timeout=scaled(60)
        )

    return run
