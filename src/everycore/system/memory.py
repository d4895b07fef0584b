"""How much memory a process has, counted by its share of each page (proc(5)).

Facts: `/proc/PID/statm` has the resident pages, and costs microseconds. It counts a shared page fully for
each process. The proportional share (PSS) divides such pages, and is never larger. `/proc/PID/smaps_rollup`
walks all pages for it, which takes milliseconds for each gigabyte and requires permission to trace the
process (ptrace(2)).
"""

from __future__ import annotations

import contextlib

from everycore.system.resident import resident_bytes


def memory(pid: int, limit: int) -> int | None:
    """The memory of a process in bytes: resident up to `limit`, above it the proportional share if readable.

    None if the process is gone or /proc is not mounted.
    """
    resident = resident_bytes(pid)
    if resident is None or resident <= limit:
        return resident
    share = proportional_bytes(pid)
    return resident if share is None else share


def proportional_bytes(pid: int) -> int | None:
    """The proportional share of a process (PSS); None if it is gone or this user may not read it."""
    with (
        contextlib.suppress(OSError, ValueError),
        open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file,
    ):
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None
