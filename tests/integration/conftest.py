"""Fixtures of the tests of workers."""

import pytest


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every `worker_script` of the test runs `everycore.run(..., loop=)` on each of the loops in turn."""
    kind: str = request.param
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    monkeypatch.setenv("EVERYCORE_TEST_LOOP", kind)
    return kind


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """The name of each loop in turn, for `crowds.agents(loop=)`; `crowds.one_loop` overrides it."""
    name: str = request.param
    return name


@pytest.fixture
def on_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `worker_script` of the test runs on uvloop."""
    pytest.importorskip("uvloop")
    monkeypatch.setenv("EVERYCORE_TEST_LOOP", "uvloop")


@pytest.fixture(autouse=True)
def in_its_own_time(time_to_end: None) -> None:
    """Every test here has real workers, which end in their own time."""
