"""The first thing a worker does, at `import everycore`, before the program begins.

Tie this process's life to the primary's, join the channel, and make sure that no child of ours is taken for a
worker. Invariant: whatever the program is (asyncio, threads, neither), the primary knows it and can stop it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

from everycore.core import wire
from everycore.core.frames import encode_frame
from everycore.errors import EverycoreError
from everycore.system import inherited, processes
from everycore.system.board import WorkerBoard
from everycore.system.descriptors import close_all, close_now, fill_standard_streams
from everycore.system.orphan import Orphan
from everycore.ticket import Ticket
from everycore.worker.connections.ledger import Ledger
from everycore.worker.listening.link import Link
from everycore.worker.signals import WorkerSignals, print_stacks_when_asked

#: The primary is gone, or has given us up: EX_TEMPFAIL of sysexits.h.
ORPHANED: Final = 75


class Membership:
    """What this process has by its ticket: the sockets and the board, as they were inherited."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.channel = socket.socket(fileno=ticket.channel[0])
        self.link = Link(socket.socket(fileno=ticket.link[0]))
        self.board = WorkerBoard(ticket.board[0], ticket.row)
        self.connections = Ledger(self.board)
        self.signals = WorkerSignals(ticket.grace, self.say_leave, lambda: self.connections.open > 0)
        self.orphan = Orphan(ticket.orphan_grace)

    def say_leave(self) -> None:
        """Tell the primary, by the link, that this worker leaves."""
        try:
            self.link.tell(wire.Leave())
        except (OSError, EverycoreError):
            pass  # the primary is gone: we leave all the same

    def abandon(self) -> None:
        """In a forked child: these are the parent's."""
        close_now(self.channel)
        close_all((self.ticket.leash[0],))
        self.link.close()
        self.board.close()


def join(ticket: Ticket) -> Membership:
    """Join the cluster as the worker that `ticket` names."""
    with contextlib.suppress(OSError):  # no /dev/null, or no descriptor is left: it was so before
        fill_standard_streams()
    if ticket.orphan_grace == 0 and not processes.die_with_parent(ticket.primary):
        os._exit(ORPHANED)
    processes.become_likelier_victim()
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # the primary looks whether it can ask
        print_stacks_when_asked()
    for fd, _ in (ticket.channel, ticket.link, ticket.leash):
        os.set_inheritable(fd, False)
    membership = Membership(ticket)
    if ticket.orphan_grace:
        membership.orphan.install()
    if inherited.is_group_leader():
        inherited.write_from_background()
    # Before `Joined`: a worker that was asked to leave meanwhile is sent SIGTERM in answer to it.
    membership.signals.install(ignores_interrupt=ticket.ignores_interrupt, blocked=ticket.blocked)
    membership.channel.setblocking(True)
    try:
        membership.channel.sendall(encode_frame(wire.encode(wire.Joined(os.getpid()))))
    except OSError:
        os._exit(ORPHANED)
    membership.channel.setblocking(False)
    return membership
