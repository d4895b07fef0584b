"""Processes as /proc and pidfds show them. Nothing here sleeps: waiting is poll() on a descriptor."""

import os
import select
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.kit.limits import scaled


@dataclass(frozen=True)
class Process:
    pid: int
    name: str
    state: str
    parent: int
    session: int

    @property
    def is_zombie(self) -> bool:
        return self.state in "ZX"


def look(pid: int) -> Process | None:
    """One process; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in brackets and may itself contain brackets and spaces.
    name = text[text.index("(") + 1 : text.rindex(")")]
    state, parent, _group, session, *_ = text[text.rindex(")") + 2 :].split()
    return Process(pid, name, state, int(parent), int(session))


def everybody() -> Iterator[Process]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (process := look(int(entry))):
            yield process


def children(pid: int) -> list[int]:
    """Pids of the children, zombies too, ascending."""
    return sorted(process.pid for process in everybody() if process.parent == pid)


def descendants(pid: int, *, zombies: bool = False) -> list[int]:
    """Pids of children, grandchildren and so on, without `pid` itself, parents before their children."""
    by_parent: dict[int, list[Process]] = {}
    for process in everybody():
        by_parent.setdefault(process.parent, []).append(process)
    found: list[int] = []
    todo = [pid]
    while todo:
        for process in sorted(by_parent.get(todo.pop(0), ()), key=lambda process: process.pid):
            todo.append(process.pid)
            if zombies or not process.is_zombie:
                found.append(process.pid)
    return found


def until_closers_end() -> None:
    """Wait for the threads of `everycore.system.strange`, which close what may take a while."""
    for thread in threading.enumerate():
        if thread.name == "everycore-close":
            thread.join(scaled(10))


def open_fds(pid: int | None = None) -> dict[int, str]:
    """Descriptor -> its file ("socket:[1234]", "/dev/null", ...) in a process, by default this one."""
    if pid is None:
        until_closers_end()
    folder = f"/proc/{pid or 'self'}/fd"
    found: dict[int, str] = {}
    for entry in os.listdir(folder):
        try:
            found[int(entry)] = os.readlink(f"{folder}/{entry}")
        except FileNotFoundError:  # the descriptor with which the folder was listed
            continue
    return found


def resident(pid: int | None = None) -> int:
    """Bytes of memory that a process holds, default this one."""
    with open(f"/proc/{pid or 'self'}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def usable(handle: Any) -> bool:
    """Whether this socket or file is still open."""
    try:
        os.fstat(handle.fileno())
    except (OSError, ValueError):
        return False
    return True


def command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def process_tree(*roots: int) -> str:
    """The processes and all their descendants as text, with state and command line."""
    processes = {process.pid: process for process in everybody()}
    lines: list[str] = []

    def draw(pid: int, depth: int) -> None:
        process = processes.get(pid)
        if process is None:
            lines.append(f"{'  ' * depth}{pid} gone")
        else:
            words = command_line(pid) or f"[{process.name}]"
            lines.append(f"{'  ' * depth}{pid} {process.state} {words[:200]}")
        for child in sorted(other.pid for other in processes.values() if other.parent == pid):
            draw(child, depth + 1)

    for root in roots:
        draw(root, 0)
    return "\n".join(lines)


def wait_readable(fd: int, timeout: float) -> bool:
    """Wait until `fd` can be read (or has ended). Returns False if the time was over first."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(scaled(timeout) * 1000))


def wait_gone(pids: Iterable[int], timeout: float = 10.0) -> list[int]:
    """Wait until every process has ended (a zombie has). Returns those still alive when the time was over."""
    deadline = time.monotonic() + scaled(timeout)
    waiting: dict[int, int] = {}
    poller = select.poll()
    try:
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            waiting[pidfd] = pid
            poller.register(pidfd, select.POLLIN)
        while waiting:
            ended = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ended:
                break
            for pidfd, _ in ended:
                poller.unregister(pidfd)
                os.close(pidfd)
                del waiting[pidfd]
        return sorted(waiting.values())
    finally:
        for pidfd in waiting:
            os.close(pidfd)
