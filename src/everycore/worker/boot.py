"""The first thing a worker does, at `import everycore`, before the program begins.

It ties this process's life to the primary's, joins the channel, and makes sure that no child of this process
is taken for a worker. Invariant: whatever the program uses (asyncio, threads, neither), the primary knows
the process and can stop it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

from everycore.aio.task_stacks import print_tasks_when_asked
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

#: Exit status of a worker whose primary has died or has given it up: EX_TEMPFAIL of sysexits.h.
ORPHANED: Final = 75


class Membership:
    """What this process owns by virtue of its ticket: the inherited sockets and the board."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.channel = socket.socket(fileno=ticket.channel[0])
        self.link = Link(socket.socket(fileno=ticket.link[0]))
        self.board = WorkerBoard(ticket.board[0], ticket.row)
        self.connections = Ledger(self.board)
        self.signals = WorkerSignals(ticket.grace, self.say_leave, lambda: self.connections.open > 0)
        self.orphan = Orphan(ticket.orphan_grace)

    def say_leave(self) -> None:
        """Tell the primary over the link that this worker is leaving."""
        try:
            self.link.tell(wire.Leave())
        except (OSError, EverycoreError):
            pass  # the primary is gone: this worker leaves all the same

    def abandon(self) -> None:
        """Close this process's copies, in a forked child: the parent goes on using the originals."""
        close_now(self.channel)
        close_all((self.ticket.leash[0],))
        self.link.close()
        self.board.close()


def join(ticket: Ticket) -> Membership:
    """Join the cluster as the worker that `ticket` names."""
    with contextlib.suppress(OSError):  # without /dev/null or a free descriptor, nothing gets worse
        fill_standard_streams()
    if ticket.orphan_grace == 0 and not processes.die_with_parent(ticket.primary):
        os._exit(ORPHANED)
    processes.become_likelier_victim()
    # If this fails, the primary notices: it checks that the signal is handled before it sends it.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        print_stacks_when_asked()
        print_tasks_when_asked()
    for fd, _ in (ticket.channel, ticket.link, ticket.leash):
        os.set_inheritable(fd, False)
    membership = Membership(ticket)
    if ticket.orphan_grace:
        membership.orphan.install()
    if inherited.is_group_leader():
        inherited.write_from_background()
    # Install these before sending `Joined`: the primary answers it with SIGTERM if it has asked this worker
    # to leave in the meantime.
    membership.signals.install(ignores_interrupt=ticket.ignores_interrupt, blocked=ticket.blocked)
    membership.channel.setblocking(True)
    try:
        membership.channel.sendall(encode_frame(wire.encode(wire.Joined(os.getpid()))))
    except OSError:
        os._exit(ORPHANED)
    membership.channel.setblocking(False)
    return membership
