"""What tests of workers share."""

import pytest

from everycore.core import lifecycle
from tests.kit import scaled


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
def time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the primary allows a worker for its last steps is a limit in time as any other.

    On a busy machine a second is not enough for an interpreter to end, and the status is that of SIGKILL.
    """
    monkeypatch.setattr(lifecycle, "KILL_MARGIN", scaled(lifecycle.KILL_MARGIN))
