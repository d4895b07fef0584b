"""What the kernel says of a process in /proc/PID/status (proc(5)): lines `Name:` and a text.

Invariant: reads only; where nothing is told (the process has gone, /proc is not mounted), it is empty.
"""

from __future__ import annotations


def status_of(pid: int | str) -> dict[str, str]:
    """The text of each line by its name, without the blanks around it. pid: "self" for this process."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            lines = [line.partition(":") for line in file]
    except OSError:
        return {}
    return {name: text.strip() for name, _, text in lines}
