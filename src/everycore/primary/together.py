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
    """A worker, as this module needs it: its driver."""

    process: WorkerProcess

    def tell(self, message: wire.ReopenLogs) -> None:
        """Send a message on the channel."""


def reopen_logs(members: Iterable[SignalledMember], *, tells_programs: bool = True) -> None:
    """Let every worker open its log files anew.

    A worker with a loop of ours does so. With `tells_programs` a program that has a handler of SIGUSR1 gets
    that signal too, as a lone process would; one without a handler would be ended by it.
    """
    for member in members:
        member.tell(wire.ReopenLogs())
        if tells_programs and member.process.hears(signal.SIGUSR1):
            member.process.signal(signal.SIGUSR1)


def pause(members: Iterable[SignalledMember]) -> None:
    """Stop every worker, with its process group if it leads one."""
    _signal(members, signal.SIGSTOP)


def resume(members: Iterable[SignalledMember]) -> None:
    """Continue every worker. Does nothing to one that runs."""
    _signal(members, signal.SIGCONT)


def _signal(members: Iterable[SignalledMember], number: signal.Signals) -> None:
    steps = (partial(member.process.signal_group, number) for member in members)
    take_all(steps, f"{number.name} to all workers")  # one may have become another user
