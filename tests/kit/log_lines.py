"""Log files that other processes write: waiting for a line, and until they are closed."""

import os
import re
import select
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.kit.limits import scaled

_LOOK = 0.01


def wait_until(condition: Callable[[], object], what: str, timeout: float = 15.0) -> None:
    """Wait until `condition()` is true, by checking again and again: no descriptor reports it."""
    deadline = time.monotonic() + scaled(timeout)
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        select.select([], [], [], _LOOK)


def wait_for_line(path: Path, pattern: str) -> None:
    """Wait until `pattern` is found in the file."""
    wait_until(
        lambda: path.exists() and re.search(pattern, path.read_text(), re.MULTILINE), f"{pattern} in {path}"
    )


def wait_until_left(path: Path, pids: Iterable[int]) -> None:
    """Wait until none of these processes has the file open."""
    inode = path.stat()

    def is_left() -> bool:
        return not any(_has_open(pid, inode) for pid in pids)

    wait_until(is_left, f"{path} is open")


def _has_open(pid: int, inode: os.stat_result) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        found = [os.stat(f"{folder}/{fd}") for fd in os.listdir(folder)]
    except OSError:  # it has ended, or has just closed one of them
        return os.path.exists(folder)
    return any(os.path.samestat(inode, one) for one in found)
