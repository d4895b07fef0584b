"""The screen of `everycore top`, with a service played by a test."""

import threading
from typing import Any

import pytest
from msgspec.structs import replace
from textual.widgets import DataTable, Static

from everycore.cli import top_screen
from everycore.cli.top_screen import TopScreen
from everycore.control import ControlError, ControlEvent, DrainResult, ScaleResult, StacksOf
from tests.kit import observed

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]


class Service:
    """A service, and every connection to it."""

    def __init__(self):
        self.status_ = observed.status(observed.worker(5), observed.worker(6), size=2)
        self.status_ = with_slots(self.status_)
        self.ordered = []
        self.looks = threading.Semaphore(0)
        self.is_gone = False
        self.goes_on = threading.Event()
        self.goes_on.set()

    def connect(self) -> Any:
        return self

    def __enter__(self):
        if self.is_gone:
            raise ControlError("no_service", "no service named 'shop' answers here")
        return self

    def __exit__(self, *_):
        return None

    def status(self):
        if self.is_gone:
            raise ControlError("gone", "the service has ended")
        self.looks.release()
        return self.status_

    def events(self):
        return [ControlEvent(seq=1, at=0.0, event="ready", worker=5, slot=0, pid=77)]

    def reload(self):
        self.ordered.append("reload")
        self.goes_on.wait(30)
        raise ControlError("failed", "worker 7 ended before it was ready")

    def scale(self, *, by):
        self.ordered.append(by)
        return ScaleResult(size=2 + by, before=2)

    def drain(self, worker):
        self.ordered.append(("drain", worker))
        return DrainResult(worker=worker, status="exit status 0")

    def stacks(self, worker):
        return [StacksOf(worker=worker, pid=1, printed_to="/log")]


def with_slots(status):
    slots = tuple(
        replace(slot, workers=(worker.id,)) for slot, worker in zip(status.slots, status.workers, strict=True)
    )
    return replace(status, slots=slots)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(top_screen, "STEP", 0.01)


def text(screen, name):
    return str(screen.query_one(name, Static).content)


async def until(pilot, is_so):
    while not is_so():
        await pilot.pause()


async def test_it_shows_a_service_and_its_workers():
    service = Service()
    screen = TopScreen(service.connect)
    async with screen.run_test(size=(140, 30)) as pilot:
        table = screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 2)
        assert "workers: 2 of 2 ready; generation 3" in text(screen, "#head")
        assert table.get_row("5")[:2] == ["4", "5"]
        assert "worker 5 (slot 0, pid 77) is ready" in text(screen, "#events")
        await until(pilot, lambda: table.row_count and table.get_row("5")[-2] == "0")  # connections a second
        service.is_gone = True
        await until(pilot, lambda: "the service does not answer" in text(screen, "#head"))
        assert table.row_count == 0
        service.is_gone = False
        await until(pilot, lambda: table.row_count == 2)
        await pilot.press("q")
    assert screen.return_code == 0


@pytest.mark.ci_only
async def test_keys_order_what_they_say():
    service = Service()
    screen = TopScreen(service.connect)
    async with screen.run_test(size=(140, 30)) as pilot:
        await until(pilot, lambda: screen.query_one(DataTable).row_count == 2)
        await pilot.press("plus")
        await until(pilot, lambda: text(screen, "#said") == "scaled from 2 to 3 workers")
        await pilot.press("minus")
        await until(pilot, lambda: text(screen, "#said") == "scaled from 2 to 1 workers")
        await pilot.press("down", "d")
        await until(pilot, lambda: text(screen, "#said") == "worker 6 has left: exit status 0")
        await pilot.press("s")
        await until(pilot, lambda: text(screen, "#said") == "worker 6 is printing its stacks to /log")
        assert service.ordered == [1, -1, ("drain", 6)]


@pytest.mark.ci_only
async def test_an_order_keeps_the_screen_from_nothing():
    service = Service()
    service.goes_on.clear()
    screen = TopScreen(service.connect)
    async with screen.run_test(size=(140, 30)) as pilot:
        await pilot.press("r")
        await until(pilot, lambda: service.ordered == ["reload"])
        for _ in range(3):
            while not service.looks.acquire(blocking=False):
                await pilot.pause()
        assert text(screen, "#said") == "reloading ..."
        service.goes_on.set()
        await until(pilot, lambda: text(screen, "#said").startswith("reloading: "))
        assert "worker 7 ended before it was ready" in text(screen, "#said")
