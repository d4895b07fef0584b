"""The screen of `everycore top`.

A thread asks the service every `STEP` seconds. An order from a key has a connection and a thread of its own:
it may take as long as a grace, and quitting does not wait for it. Invariant: the screen never waits for the
service; if the service does not answer, or has ended, the first line says so.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from threading import Event, Thread
from typing import ClassVar, Final

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.widgets import DataTable, Footer, Static

from everycore.cli.status_text import HEADS, event_line, head_lines, worker_rows
from everycore.control import ControlError, ControlEvent, RunningService, ServiceStatus

#: The time between two requests, in seconds.
STEP: Final = 1.0
#: How many events are shown.
_EVENTS: Final = 8
_RATE: Final = "conn/s"


class TopScreen(App[None]):
    """The screen. `connect` opens a connection to the service, or raises ControlError."""

    TITLE = "everycore top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: auto; padding: 0 1; }
    #workers { height: 1fr; }
    #events { height: auto; max-height: 10; padding: 0 1; color: $text-muted; }
    #said { height: auto; padding: 0 1; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "reload", "Reload"),
        Binding("plus", "scale(1)", "One more", key_display="+"),
        Binding("minus", "scale(-1)", "One fewer", key_display="-"),
        Binding("d", "drain", "Drain"),
        Binding("s", "stacks", "Stacks"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False),
    ]

    def __init__(self, connect: Callable[[], RunningService]) -> None:
        super().__init__()
        self._connect = connect
        self._is_over = Event()
        #: When the service last answered, and the connections of each worker by then.
        self._before: tuple[float, dict[int, int]] = (0.0, {})

    def compose(self) -> ComposeResult:
        """Create the widgets, as textual asks for them."""
        yield Static(id="head", markup=False)
        table: DataTable[str] = DataTable(id="workers", cursor_type="row", zebra_stripes=True)
        yield table
        yield Static(id="events", markup=False)
        yield Static(id="said", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Start watching: textual has mounted the screen."""
        table = self.query_one(DataTable)
        for head in (*HEADS[:-1], _RATE, HEADS[-1]):
            table.add_column(head, key=head)
        table.focus()
        self._begin(self._watch)

    def on_unmount(self) -> None:
        """Stop watching: textual is about to end."""
        self._is_over.set()

    # --- looking ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Ask the service for its status again and again; connect again if that fails."""
        while not self._is_over.is_set():
            try:
                with self._connect() as service:
                    while not self._is_over.is_set():
                        self._tell(self._show, service.status(), service.events())
                        self._is_over.wait(STEP)
            except ControlError as error:
                self._tell(self._show_problem, str(error))
                self._is_over.wait(STEP)

    @staticmethod
    def _begin(call: Callable[[], None]) -> None:
        """Call `call` in a thread that does not keep the process alive."""
        Thread(target=call, daemon=True).start()

    def _tell(self, call: Callable[..., None], *given: object) -> None:
        """Call `call` in the screen's own thread, unless the screen is gone."""
        if not self._is_over.is_set():
            with contextlib.suppress(RuntimeError, NoMatches):  # the screen is just closing
                self.call_from_thread(call, *given)

    def _show(self, status: ServiceStatus, events: list[ControlEvent]) -> None:
        self.query_one("#head", Static).update("\n".join(head_lines(status)))
        self.query_one("#events", Static).update("\n".join(map(event_line, events[-_EVENTS:])))
        rates = self._rates(status)
        table = self.query_one(DataTable)
        chosen = table.cursor_row
        table.clear()
        for worker, row in worker_rows(status, time.time()):
            rate = "-" if worker is None or worker not in rates else f"{rates[worker]:.0f}"
            table.add_row(*row[:-1], rate, row[-1], key=None if worker is None else str(worker))
        table.move_cursor(row=min(chosen, max(table.row_count - 1, 0)))

    def _rates(self, status: ServiceStatus) -> dict[int, float]:
        """Connections a second since the previous answer, by worker."""
        now = time.monotonic()
        counts = {worker.id: worker.handed_over for worker in status.workers}
        (then, before), self._before = self._before, (now, counts)
        passed = now - then
        return {
            worker: max(count - before[worker], 0) / passed
            for worker, count in counts.items()
            if worker in before and passed > 0
        }

    def _show_problem(self, text: str) -> None:
        self.query_one("#head", Static).update(f"the service does not answer: {text}")
        self.query_one(DataTable).clear()

    # --- steering -----------------------------------------------------------------------------------------

    def action_reload(self) -> None:
        """Replace all workers."""
        self._order("reloading", lambda service: f"reload {service.reload().generation} is done")

    def action_scale(self, by: int) -> None:
        """Change the number of workers by `by`."""

        def scale(service: RunningService) -> str:
            result = service.scale(by=by)
            return f"scaled from {result.before} to {result.size} workers"

        self._order("scaling", scale)

    def action_drain(self) -> None:
        """Drain the selected worker: it finishes its work and leaves."""
        worker = self._chosen()
        if worker is not None:
            self._order(f"draining worker {worker}", partial(_drain, worker))

    def action_stacks(self) -> None:
        """Make the selected worker print its stacks."""
        worker = self._chosen()
        if worker is not None:
            self._order(f"asking worker {worker}", partial(_stacks, worker))

    def _chosen(self) -> int | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        if key is None:
            self._say("that slot has no worker at the moment")
        return None if key is None else int(key)

    def _order(self, what: str, order: Callable[[RunningService], str]) -> None:
        def ask() -> None:
            try:
                with self._connect() as service:
                    said = order(service)
            except ControlError as error:
                said = f"{what}: {error}"
            self._tell(self._say, said)

        self._say(f"{what} ...")
        self._begin(ask)

    def _say(self, text: str) -> None:
        self.query_one("#said", Static).update(text)


def _drain(worker: int, service: RunningService) -> str:
    return f"worker {worker} has left: {service.drain(worker).status}"


def _stacks(worker: int, service: RunningService) -> str:
    (found,) = service.stacks(worker)
    if found.problem is not None:
        return f"worker {worker} was not asked: {found.problem}"
    return f"worker {worker} is printing its stacks to {found.printed_to or 'its standard error'}"
