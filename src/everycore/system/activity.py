"""What a process has done and waited for, as the kernel counts it (proc(5)).

Facts: `/proc/PID/task/TID/schedstat` has three numbers: nanoseconds that the thread ran, nanoseconds that it
was runnable and waited for a processor, and how often it ran. `/proc/PID/schedstat` is that of the main
thread alone. They are readable for everybody, unless /proc is mounted with `hidepid`; a kernel without
CONFIG_SCHED_INFO, and gVisor, have none. Of a process that is stopped, the state of the main thread is T; of
one that a tracer has stopped, t.
"""

from __future__ import annotations

import itertools
import os
from typing import Final

import msgspec

from everycore.system.statuses import status_of

_NANO: Final = 1e-9
#: Threads of a process that are looked at: a worker can have more than the primary has time for.
MOST_THREADS: Final = 1024


class Activity(msgspec.Struct, frozen=True):
    """One process at one moment. Times are seconds, from its start on.

    cpu: for which its threads ran. waited: thread -> for which it was runnable, and no processor was free.
    is_stopped: by SIGSTOP and the like. is_traced: a debugger or strace has it (ptrace(2)).
    """

    cpu: float = 0.0
    waited: dict[int, float] = {}
    is_stopped: bool = False
    is_traced: bool = False


def activity(pid: int) -> Activity | None:
    """Look at a process; None where there is nothing to see: it is gone, or there is no /proc."""
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
        except (OSError, ValueError):  # it has just ended; or this kernel does not count
            continue
        cpu += int(ran) * _NANO
        waited[int(thread)] = int(waits) * _NANO
    return Activity(
        cpu=cpu,
        waited=waited,
        is_stopped=status.get("State", "").startswith("T"),
        is_traced=status.get("TracerPid", "0") != "0",
    )
