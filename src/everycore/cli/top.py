"""`everycore top`: a running service, live, in the terminal.

Invariant: textual is imported here and in `cli.top_screen` alone, when somebody asks for it; without it, or
without a terminal, that is one sentence and status 2.
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
  r       reload: all workers are replaced
  +, -    one worker more, one fewer
  d       drain the chosen worker: it finishes its work, and another one takes its slot
  s       the chosen worker prints its stacks, where its errors go
  up, down  choose a worker
  q       leave; the service goes on

\b
Exit status:
  0  left by q or Ctrl-C
  2  wrong usage, no such service, several that it could be, or textual is missing
"""


@click.command(short_help="Watch a running service, live.", epilog=_EPILOG, context_settings=CONTEXT)
@asks(waits=False)
def top(*, name: str | None, pid: int | None, control: str | None) -> int:
    """Watch a running service and its workers, and steer it by keys."""
    if importlib.util.find_spec("textual") is None:
        raise ConfigurationError("top", "needs textual: pip install 'everycore[top]'")
    if not (sys.__stdin__ and sys.__stdin__.isatty() and sys.__stderr__ and sys.__stderr__.isatty()):
        raise ConfigurationError("top", "needs a terminal; everycore status shows the same once")

    def show() -> int:
        with connect(name, pid=pid, path=path_of(control)) as service:
            chosen, where = service.name, path_of(control)

        def again() -> RunningService:
            return connect(chosen.name, pid=chosen.pid, path=where)

        from everycore.cli.top_screen import TopScreen  # late: it takes its time, and may be missing

        TopScreen(again).run()
        return STATUS_STOPPED

    return saying(show)
