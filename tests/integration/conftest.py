"""What tests of workers share."""

import pytest


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every `worker_script` of the test runs `everycore.run(..., loop=)` on each of the loops in turn."""
    kind: str = request.param
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    monkeypatch.setenv("EVERYCORE_TEST_LOOP", kind)
    return kind


@pytest.fixture
def on_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `worker_script` of the test runs on uvloop."""
    pytest.importorskip("uvloop")
    monkeypatch.setenv("EVERYCORE_TEST_LOOP", "uvloop")
