"""`everycore top`: a running service, live, in the terminal.

Invariant: only this module and `cli.top_screen` import textual, and only when the command is run. Without
textual, or without a terminal, the command ends with one sentence and status 2.
"""

from __future__ import annotations

import importlib.util
import sys

import click

from everycore.cli.options import CONTEXT
from everycore.cli.steering import asks, path_of, saying
from everycore.control import RunningService, connect
from everycore.errors import ConfigurationError
from everycore.ops.job import STATUS_STOPPED

_EPILOG = """
\b
Keys:
  r       reload: replace all workers
  +, -    add a worker, remove a worker
  d       drain the selected worker: it finishes its work, and another one takes its slot
  s       make the selected worker print its stacks to its standard error
  up, down  select a worker
  q       quit; the service goes on

\b
Exit status:
  0  left by q or Ctrl-C
  2  wrong usage, no such service, several services that could be meant, or textual is missing
"""


@click.command(short_help="Watch a running service, live.", epilog=_EPILOG, context_settings=CONTEXT)
@asks(waits=False)
def top(*, name: str | None, pid: int | None, control: str | None) -> int:
    """Watch a running service and its workers, and steer it by keys."""
    if importlib.util.find_spec("textual") is None:
        raise ConfigurationError("top", "needs textual: pip install 'everycore[top]'")
    if not (sys.__stdin__ and sys.__stdin__.isatty() and sys.__stderr__ and sys.__stderr__.isatty()):
        raise ConfigurationError("top", "needs a terminal; everycore status prints the same once")

    def show() -> int:
        with connect(name, pid=pid, path=path_of(control)) as service:
            chosen, where = service.name, path_of(control)

        def again() -> RunningService:
            return connect(chosen.name, pid=chosen.pid, path=where)

        from everycore.cli.top_screen import TopScreen  # late: its import is slow, and textual may be missing

        TopScreen(again).run()
        return STATUS_STOPPED

    return saying(show)
