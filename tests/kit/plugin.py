"""The kit as pytest sees it: hooks and fixtures, loaded by tests/conftest.py."""

import compileall
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

import everycore
from everycore.core import lifecycle
from tests.kit.leaks import Surroundings
from tests.kit.limits import Watchdog, limit_of, scaled
from tests.kit.loops import run_test
from tests.kit.processes import process_tree
from tests.kit.programs import Program
from tests.kit.variants import left_out

_watchdog = pytest.StashKey[Watchdog]()
_has_failed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--variants",
        choices=["all", "half"],
        help="of a slow test's variants, those to run; without it: half in a whole run, else all",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.variants is None:  # told to xdist's processes as well
        is_whole = config.args == config.getini("testpaths")
        config.option.variants = "half" if is_whole else "all"
    # A script's `make test &` starts pytest with SIGINT ignored, and programs started here would inherit it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The kit sets a test's time limit: an example that is slow on a busy machine proves nothing.
    settings.register_profile("everycore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("everycore")
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else ExitStack():
        last_words = os.dup(2)
    config.stash[_watchdog] = Watchdog(last_words)
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        # Where PYTHONDONTWRITEBYTECODE is set, each of a thousand processes would compile everycore anew,
        compileall.compile_dir(os.path.dirname(everycore.__file__), quiet=2)
    # and each process of pytest all tests: 11 of the 18 s of processor time that it takes to collect them.
    sys.dont_write_bytecode = False


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three workers for each two processors, since tests mostly wait; 0, this process, for single files."""
    if config.args and all(os.path.isfile(arg.partition("::")[0]) for arg in config.args):
        return 0
    return max(2, (os.cpu_count() or 1) * 3 // 2)


def pytest_unconfigure(config: pytest.Config) -> None:
    if watchdog := config.stash.get(_watchdog, None):
        del config.stash[_watchdog]
        watchdog.close(ends_now=not hasattr(config, "workerinput"))


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.variants == "all":
        return
    tests: dict[str, dict[str, Any]] = {}
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("ci_only"):
            tests.setdefault(item.nodeid.partition("[")[0], {})[item.nodeid] = item
    for test, variants in tests.items():
        values = {name: item.callspec.params for name, item in variants.items() if hasattr(item, "callspec")}
        for name in left_out(test, values):
            variants[name].add_marker("ci_only")


@pytest.hookimpl(wrapper=True)
def _guarded(item: pytest.Item) -> Iterator[None]:
    """Run one phase of a test, which fails if it takes too long."""
    watchdog = item.config.stash[_watchdog]
    with watchdog.watch(item.nodeid, limit_of(item), lambda: process_tree(os.getpid())):
        return (yield)


pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = _guarded


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    if report.failed:
        item.stash[_has_failed] = True
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests. With a fixture `loop_factory`, a test runs in the loop that it makes."""
    if not inspect.iscoroutinefunction(inspect.unwrap(pyfuncitem.obj)):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    loop_factory: Any = pyfuncitem.funcargs.get("loop_factory")
    run_test(pyfuncitem.obj, arguments, loop_factory)
    return True


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves something behind. After a failed test this only tidies up."""
    before = Surroundings.now()
    yield
    changes = before.changes()
    if changes:
        before.restore()
        if not request.node.stash.get(_has_failed, False):
            pytest.fail("the test left behind:\n  " + "\n  ".join(changes), pytrace=False)


class StartProgram(Protocol):
    def __call__(
        self,
        source: str | Path,
        *args: str,
        env: Mapping[str, str | None] | None = None,
        flags: Sequence[str] = (),
        cwd: Path | str | None = None,
    ) -> Program: ...


class StartCommand(Protocol):
    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | str | None = None,
    ) -> Program: ...


@pytest.fixture
def _programs(request: pytest.FixtureRequest, nothing_leaks: None) -> Iterator[Callable[[Program], Program]]:
    started: list[Program] = []

    def keep(program: Program) -> Program:
        started.append(program)
        return program

    yield keep
    failed = request.node.stash.get(_has_failed, False)
    with ExitStack() as stack:  # the last one ends first; one that fails to end does not keep the others
        for program in started:
            stack.callback(program.close, failed=failed)


@pytest.fixture
def start_program(_programs: Callable[[Program], Program], tmp_path: Path) -> StartProgram:
    """Start Python source (dedented) or a file with this interpreter, in the test's own folder."""

    def start(source: str | Path, *args: str, **options: Any) -> Program:
        return _programs(Program.script(source, *args, folder=tmp_path, **options))

    return start


@pytest.fixture
def start_command(_programs: Callable[[Program], Program], tmp_path: Path) -> StartCommand:
    """Start any command line, in the test's own folder."""

    def start(
        argv: Sequence[str], *, env: Mapping[str, str | None] | None = None, cwd: Path | str | None = None
    ) -> Program:
        return _programs(Program(argv, cwd=cwd or tmp_path, env=env))

    return start


@pytest.fixture
def time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale the primary's limit for a worker's last steps, like any other time limit.

    On a busy machine a second is not enough for an interpreter to end, and the status would be that of
    SIGKILL.
    """
    monkeypatch.setattr(lifecycle, "KILL_MARGIN", scaled(lifecycle.KILL_MARGIN))
