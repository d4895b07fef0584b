"""How much memory a process has, as its share counts (proc(5)).

Facts: `/proc/PID/statm` has the resident pages, and costs microseconds. What processes share is counted there
for each of them. The proportional share (PSS) divides it, and is never more; `/proc/PID/smaps_rollup` walks
all pages for it, which takes milliseconds a gigabyte, and needs the right to trace the process (ptrace(2)).
"""

from __future__ import annotations

import contextlib

from everycore.system.resident import resident_bytes


def memory(pid: int, limit: int) -> int | None:
    """The bytes of a process: the resident ones up to `limit`, above it the proportional share if told.

    None: it is gone, or there is no /proc.
    """
    resident = resident_bytes(pid)
    if resident is None or resident <= limit:
        return resident
    share = proportional_bytes(pid)
    return resident if share is None else share


def proportional_bytes(pid: int) -> int | None:
    """The proportional share of a process (PSS); None: it is gone, or that is not told to this user."""
    with (
        contextlib.suppress(OSError, ValueError),
        open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file,
    ):
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None
