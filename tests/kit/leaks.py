"""What a test must not leave behind: descriptors, children, threads, signal handlers."""

import gc
import os
import signal
import threading
from dataclasses import dataclass
from typing import Any

from tests.kit.limits import TimeLimit
from tests.kit.processes import children, open_fds, process_tree


def _own_children() -> frozenset[int]:
    found: set[int] = set()
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
                found.update(map(int, file.read().split()))
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN, or a thread that has just ended
        return frozenset(children(os.getpid()))
    return frozenset(found)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _wakeup_fd() -> int:
    fd = signal.set_wakeup_fd(-1)
    if fd >= 0:
        signal.set_wakeup_fd(fd)
    return fd


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True)
class Surroundings:
    """The process before a test. `changes()` says in words what is different after it."""

    fds: dict[int, str]
    children: frozenset[int]
    threads: frozenset[threading.Thread]
    handlers: dict[int, Any]
    blocked: frozenset[int]
    wakeup_fd: int

    @classmethod
    def now(cls) -> "Surroundings":
        return cls(
            fds=open_fds(),
            children=_own_children(),
            threads=frozenset(
                thread for thread in threading.enumerate() if not isinstance(thread, TimeLimit)
            ),
            handlers=_handlers(),
            blocked=frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            wakeup_fd=_wakeup_fd(),
        )

    def changes(self) -> list[str]:
        after = Surroundings.now()
        if after.fds != self.fds or after.threads - self.threads:
            gc.collect()  # a cycle may hold what nothing can reach any more
            after = Surroundings.now()
        found = [
            f"descriptor {fd} is open: {what}" for fd, what in after.fds.items() if self.fds.get(fd) != what
        ]
        found += [
            f"descriptor {fd} was closed: {what}" for fd, what in self.fds.items() if fd not in after.fds
        ]
        found += [f"child process {process_tree(pid)}" for pid in after.children - self.children]
        found += [f"thread {thread.name}" for thread in after.threads - self.threads]
        found += [
            f"{_name(number)} is handled by {handler!r}"
            for number, handler in after.handlers.items()
            if handler != self.handlers[number]
        ]
        if after.blocked != self.blocked:
            found.append(f"blocked signals are {[_name(number) for number in sorted(after.blocked)]}")
        if after.wakeup_fd != self.wakeup_fd:
            found.append(f"the signal wake-up descriptor is {after.wakeup_fd}")
        return found

    def restore(self) -> None:
        """Undo what would spoil later tests, as far as possible."""
        for number, handler in self.handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)
        signal.set_wakeup_fd(self.wakeup_fd)
        for pid in _own_children() - self.children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
