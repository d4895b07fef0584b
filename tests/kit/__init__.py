"""What tests stand on: real programs, processes, a clock that moves only when told, and time limits.

    from tests.kit import Program, VirtualClock, descendants, open_fds, scaled, turn, wait_gone, wait_readable

Fixtures (tests/kit/plugin.py): `start_program(source_or_path, *args)` and `start_command(argv)` start a real
program and leave nothing of it behind. An `async def` test needs no mark.

What tests need less often is imported from its module:

- real processes: `workers` (their programs; `Diary`, the events of a cluster), `traffic` (workers that do as
  told, and clients), `crowds` (many clients, both loops and policies), `running` and `serving`
  (`everycore run` and `serve`), `http_clients` (load), `ends` (of a worker)
- the kinds of the events of a cluster, as a list that grows: `told`
- log files that other processes write: `log_lines`
- the machine: `processes`, `listeners`, `ports`, `trouble` (no privileges, no descriptors)
- fakes: `fake_processes` and `crimes` (workers byte for byte), `stage` (one listener), `channel_pairs` (both
  ends of a channel), `dispatch_world`, `dispatch_law`, `watched_lanes`, `sticky_world` and `seats` (the
  dispatchers), `numbered_pools`
- the sources: `folders`, `imports`
"""

from tests.kit.clock import VirtualClock
from tests.kit.inside import INSIDE
from tests.kit.limits import scaled
from tests.kit.listeners import connected, waiting
from tests.kit.loops import pass_time, turn
from tests.kit.processes import (
    children,
    descendants,
    open_fds,
    process_tree,
    usable,
    wait_gone,
    wait_readable,
)
from tests.kit.programs import Program, ProgramFailure

__all__ = [
    "INSIDE",
    "Program",
    "ProgramFailure",
    "VirtualClock",
    "children",
    "connected",
    "descendants",
    "open_fds",
    "pass_time",
    "process_tree",
    "scaled",
    "turn",
    "usable",
    "wait_gone",
    "wait_readable",
    "waiting",
]
