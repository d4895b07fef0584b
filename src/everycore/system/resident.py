"""How much a process has of memory and processor time, and where it writes, as /proc tells (proc(5)).

Invariant: this only reads. A function returns None if /proc does not tell.
"""

from __future__ import annotations

import os
from typing import Final

from everycore.errors import in_a_line

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int | None:
    """The memory of a process in bytes, shared pages included (RSS)."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None


def cpu_seconds(pid: int) -> float | None:
    """The processor time of a process in seconds, including that of its ended threads."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, ValueError, IndexError):
        return None


def stderr_of(pid: int) -> str | None:
    """What the standard error of a process is: a path, `pipe:[5]`, `socket:[7]`. It fits into a line."""
    try:
        return in_a_line(os.readlink(f"/proc/{pid}/fd/2"))
    except OSError:
        return None
