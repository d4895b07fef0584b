"""How much memory a process has, as its share counts (proc(5)).

Facts: `/proc/PID/statm` has the resident pages, and costs microseconds. What processes share is counted there
for each of them. The proportional share (PSS) divides it, and is never more; `/proc/PID/smaps_rollup` walks
all pages for it, which takes milliseconds a gigabyte, and needs the right to trace the process (ptrace(2)).
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGESIZE")


def memory(pid: int, limit: int) -> int | None:
    """The bytes of a process: the resident ones up to `limit`, above it the proportional share if told.

    None: it is gone, or there is no /proc.
    """
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None
    if resident <= limit:
        return resident
    with (
        contextlib.suppress(OSError, ValueError),
        open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file,
    ):
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return resident
