"""What a process has done and waited for, as the kernel counts it (proc(5)).

Facts: `/proc/PID/task/TID/schedstat` has three numbers: the nanoseconds that the thread ran, the nanoseconds
that it was runnable and waited for a processor, and how often it ran. `/proc/PID/schedstat` covers the main
thread alone. Every user can read these files, unless /proc is mounted with `hidepid`. A kernel without
CONFIG_SCHED_INFO does not have them, and neither does gVisor. The main thread of a stopped process is in
state T; a thread that a tracer has stopped is in state t.
"""

from __future__ import annotations

import itertools
import os
from typing import Final

import msgspec

from everycore.system.statuses import status_of

_NANO: Final = 1e-9
#: The most threads of a process that are examined: a worker can have more than the primary has time for.
MOST_THREADS: Final = 1024


class Activity(msgspec.Struct, frozen=True):
    """One process at one moment. All times are in seconds since the process started.

    cpu: the processor time of its threads. waited: for each thread, how long it was runnable while no
    processor was free. is_stopped: the process is stopped, by SIGSTOP for instance. is_traced: a debugger or
    strace is attached (ptrace(2)).
    """

    cpu: float = 0.0
    waited: dict[int, float] = {}
    is_stopped: bool = False
    is_traced: bool = False


def activity(pid: int) -> Activity | None:
    """Examine a process. Returns None if the process is gone or /proc is not mounted."""
    status = status_of(pid)
    try:
        with os.scandir(f"/proc/{pid}/task") as entries:
            threads = [entry.name for entry in itertools.islice(entries, MOST_THREADS)]
    except OSError:
        return None
    cpu, waited = 0.0, {}
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                ran, waits = file.read().split()[:2]
        except (OSError, ValueError):  # the thread has just ended, or this kernel does not count
            continue
        cpu += int(ran) * _NANO
        waited[int(thread)] = int(waits) * _NANO
    return Activity(
        cpu=cpu,
        waited=waited,
        is_stopped=status.get("State", "").startswith("T"),
        is_traced=status.get("TracerPid", "0") != "0",
    )
