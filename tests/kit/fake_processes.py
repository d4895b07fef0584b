"""Workers without processes: the test is the worker, and says when it ends.

`Cluster(_system=FakeProcesses())`. A worker that is forked there has the real channel, link and board, and a
pidfd that an eventfd(2) plays.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from signal import SIGKILL
from typing import Any

import msgspec

from everycore.core import values, wire
from everycore.core.frames import NOTE, encode_frame
from everycore.model import ExitStatus
from everycore.role import VARIABLE, Ticket
from everycore.system.leash import Leash
from everycore.system.processes import Identity, Spawned


class FakeProcess:
    """One of them, from the worker's side."""

    def __init__(self, pid: int, argv: Sequence[str], ticket: Ticket) -> None:
        self.pid = pid
        self.argv = list(argv)
        self.ticket = ticket
        self.channel = socket.socket(fileno=os.dup(ticket.channel[0]))
        self.link = socket.socket(fileno=os.dup(ticket.link[0]))
        self.pidfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.status: ExitStatus | None = None
        self.signals: list[int] = []

    def say(self, message: Any) -> None:
        """Send `message` on the channel; the primary reads it when its loop goes on."""
        self.channel.send(encode_frame(wire.encode(message)))

    def say_note(self, message: Any) -> None:
        """Send a message of the program."""
        self.channel.send(encode_frame(values.encode(message), kind=NOTE))

    def say_on_link(self, request: Any, number: int = 1) -> None:
        """Send `request` on the link."""
        self.link.send(wire.LINK_NUMBER.pack(number) + wire.encode(request))

    def end(self, status: ExitStatus, *, keep_channel: bool = False) -> None:
        """The process ends, and its pidfd becomes readable. `keep_channel`: a fork of it has that still."""
        self.status = status
        os.eventfd_write(self.pidfd, 1)
        if not keep_channel:
            self.close()

    def close(self) -> None:
        """Close the worker's ends."""
        self.channel.close()
        self.link.close()


class FakeProcesses:
    """As `everycore.system.processes`, to a cluster. `refusal`: what the next spawn raises."""

    def __init__(self) -> None:
        self.all: list[FakeProcess] = []
        self.refusal: OSError | None = None
        self._by_pidfd: dict[int, FakeProcess] = {}

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | os.PathLike[str] | None,
        stdio: Sequence[Any],
        pass_fds: Sequence[int],
        identity: Identity,
        new_group: bool,
        leash: Leash | None = None,
        orphan_signal: int = SIGKILL,
    ) -> Spawned:
        """As the function of that name."""
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        ticket = msgspec.json.decode(env[VARIABLE], type=Ticket)
        assert {ticket.channel[0], ticket.link[0], ticket.board[0]} <= set(pass_fds)
        process = FakeProcess(100_000 + len(self.all), argv, ticket)
        self.all.append(process)
        pidfd = os.dup(process.pidfd)
        self._by_pidfd[pidfd] = process
        return Spawned(process.pid, pidfd, (None, None, None))

    def reap(self, pidfd: int, *, group: int = 0) -> ExitStatus | None:
        """As the function of that name. Once: waitid(2) finds no such child afterwards."""
        status = self._by_pidfd[pidfd].status
        if status is not None:
            del self._by_pidfd[pidfd]
        return status

    def send_signal(self, pidfd: int, number: int) -> bool:
        """As the function of that name. SIGKILL ends the process; of others the test hears."""
        process = self._by_pidfd[pidfd]
        if process.status is not None:
            return False
        process.signals.append(number)
        if number == SIGKILL:
            process.end(ExitStatus(signal=SIGKILL))
        return True

    def close(self) -> None:
        """The test is over."""
        for process in self.all:
            process.close()
            os.close(process.pidfd)
