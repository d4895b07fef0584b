"""What is done to all workers of a cluster at once, whatever each of them is doing."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from functools import partial
from typing import Protocol

from everycore.aio.steps import take_all
from everycore.core import wire
from everycore.primary.process import WorkerProcess


class SignalledMember(Protocol):
    """What this module needs of a worker: its driver has it."""

    process: WorkerProcess

    def tell(self, message: wire.ReopenLogs) -> None:
        """Send a message on the channel."""


def reopen_logs(members: Iterable[SignalledMember], *, tells_programs: bool = True) -> None:
    """Let every worker reopen its log files.

    A worker with a loop of everycore does so at once. With `tells_programs`, a program with a handler of
    SIGUSR1 gets that signal too, as it would without a cluster. The signal would end a program without a
    handler.
    """
    for member in members:
        member.tell(wire.ReopenLogs())
        if tells_programs and member.process.hears(signal.SIGUSR1):
            member.process.signal(signal.SIGUSR1)


def pause(members: Iterable[SignalledMember]) -> None:
    """Stop every worker and, if it leads one, its process group."""
    _signal(members, signal.SIGSTOP)


def resume(members: Iterable[SignalledMember]) -> None:
    """Let every worker continue. Does nothing to one that runs."""
    _signal(members, signal.SIGCONT)


def _signal(members: Iterable[SignalledMember], number: signal.Signals) -> None:
    steps = (partial(member.process.signal_group, number) for member in members)
    take_all(steps, f"{number.name} to all workers")  # one may have become another user
