"""What the kernel says of a process in /proc/PID/status (proc(5)): lines `Name:` and a text.

Invariant: this only reads. The result is empty if the process is gone or /proc is not mounted.
"""

from __future__ import annotations


def status_of(pid: int | str) -> dict[str, str]:
    """Map the name of each line to its text, stripped. pid: "self" stands for this process."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            lines = [line.partition(":") for line in file]
    except OSError:
        return {}
    return {name: text.strip() for name, _, text in lines}
