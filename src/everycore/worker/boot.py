"""The first thing a worker does, at `import everycore`, before the program begins.

Job: tie this process's life to the primary's, join the channel, and make sure that no child of ours is
taken for a worker. Invariant: whatever the program is (asyncio, threads, neither), the primary knows it and
can stop it. Must not import the primary's side.
"""

from __future__ import annotations

import _thread
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Final

from everycore import role
from everycore.core import wire
from everycore.core.frames import encode_frame
from everycore.errors import EverycoreError
from everycore.system import forked_signals, inherited, processes
from everycore.system.board import WorkerBoard
from everycore.system.descriptors import close_all, release
from everycore.system.orphan import Orphan
from everycore.worker.connections.ledger import Connections
from everycore.worker.listening.link import Link

#: The primary is gone, or has given us up: EX_TEMPFAIL of sysexits.h.
ORPHANED: Final = 75
#: How often a worker without a loop of ours looks whether its last connection has ended, in seconds.
_LOOK: Final = 0.05
#: Seconds between two signals to a main thread that has not ended by the first.
AGAIN: Final = 0.1

_DEFAULT_HANDLERS: Final = (signal.SIG_DFL, signal.default_int_handler)

# As they were before gevent replaced them: a signal handler can't wait for a greenlet to start.
start_thread: Final = _thread.start_new_thread
sleep: Final = time.sleep


class Post:
    """This process's place in the cluster: its sockets, as they were inherited."""

    def __init__(self, ticket: role.Ticket) -> None:
        self.ticket = ticket
        self.channel = socket.socket(fileno=ticket.channel[0])
        self.link = Link(socket.socket(fileno=ticket.link[0]))
        self.board = WorkerBoard(ticket.board[0], ticket.row)
        self.connections = Connections(self.board)
        #: Set while a loop of ours is being made, and from then on: signals are only noted in `noted`, for
        #: SystemExit in the middle of a constructor leaves half a loop behind. The loop looks when it runs.
        self.only_note = False
        self.noted: list[int] = []
        self.orphan = Orphan(ticket.orphan_grace)

    def abandon(self) -> None:
        """In a forked child: these are the parent's."""
        release(self.channel)
        close_all((self.ticket.leash[0],))
        self.link.close()
        self.board.close()


def join(ticket: role.Ticket) -> Post:
    """Take the place that `ticket` names."""
    if ticket.orphan_grace == 0 and not processes.die_with_parent(ticket.primary):
        os._exit(ORPHANED)
    processes.become_likelier_victim()
    for fd, _ in (ticket.channel, ticket.link, ticket.leash):
        os.set_inheritable(fd, False)
    post = Post(ticket)
    if ticket.orphan_grace:
        post.orphan.install()
    if inherited.is_group_leader():
        inherited.write_from_background()
    # Before `Joined`: a worker that was asked to leave meanwhile is sent SIGTERM in answer to it.
    if threading.current_thread() is threading.main_thread():
        terminator = Terminator(post)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, terminator)
            forked_signals.own(signal.SIGTERM)
        # Ctrl-C reaches the whole process group: without this, every worker that is still importing its
        # program would print a traceback.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_IGN if ticket.ignores_interrupt else terminator)
            if not ticket.ignores_interrupt:
                forked_signals.own(signal.SIGINT)
        inherited.hear((signal.SIGTERM, signal.SIGINT))
    post.channel.setblocking(True)
    try:
        post.channel.sendall(encode_frame(wire.encode(wire.Joined(os.getpid()))))
    except OSError:
        os._exit(ORPHANED)
    post.channel.setblocking(False)
    return post


class Terminator:
    """SIGTERM or SIGINT for a program that has no handler of its own: leave when the work is done.

    Python runs a handler in the main thread. It can't wait there, for the connection that is open may be
    served by that very thread, nor use the link, which that thread may be using. So a helper thread tells the
    primary, waits, and repeats the signal when no connection is open or grace is over.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self.has_helper = False
        #: The main thread has heard that it is to end.
        self._has_heard = False
        #: Nothing is left to be waited for.
        self.is_over = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._post.only_note:
            self._has_heard = True
            self._post.noted.append(number)
            return
        if self.is_over:
            self.end(frame)
            return
        if not self.has_helper:
            self.has_helper = True
            start_thread(self._leave, (number,))

    def end(self, frame: FrameType | None) -> None:
        """In the main thread: end the program."""
        if not self._has_heard:
            self._has_heard = True
            raise SystemExit(0)

    def _leave(self, number: int) -> None:
        # The signal is for the main thread, which may hold it back for a moment (`everycore.foreign`).
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        self.wait()
        while not self._has_heard:  # a signal may come in the moment before a system call, and wake nobody
            handler = signal.getsignal(number)
            if self._post.only_note and handler in _DEFAULT_HANDLERS:
                return  # a loop of ours has left, and its handlers with it: these are the last things
            os.kill(os.getpid(), number)
            if handler is not self:
                return  # a loop's: it hears the first one
            sleep(AGAIN)

    def wait(self) -> None:
        """Tell the primary, and wait until no connection is open or grace is over."""
        deadline = time.monotonic() + self._post.ticket.grace
        try:
            self._post.link.tell(wire.Leave())
        except (OSError, EverycoreError):
            pass  # the primary is gone: we leave all the same
        while self._works() and time.monotonic() < deadline:
            sleep(_LOOK)  # an ordinary socket does not tell when it is closed
        self.is_over = True

    def _works(self) -> bool:
        try:
            return self._post.connections.open > 0
        except RuntimeError:  # another thread has just accepted one
            return True
