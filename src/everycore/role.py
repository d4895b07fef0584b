"""Which part this process plays: decided once, at import, from one environment variable.

Read `_EVERYCORE_WORKER`, believe it only if the kernel confirms it, and remove it. Invariant: a grandchild is
never taken for a worker: the variable is removed at once, and even an inherited copy is ignored unless
`fstat` finds those very sockets behind the descriptor numbers. (Node removes `NODE_UNIQUE_ID` for the same
reason, but believes it blindly.) Imports nothing of everycore where there is no ticket: a program that begins
is not to wait.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from everycore.ticket import Ticket

VARIABLE: Final = "_EVERYCORE_WORKER"


def read_ticket(environ: MutableMapping[str, str]) -> Ticket | None:
    """Take the ticket out of `environ`; None when there is none, or it is not this process's own."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return None
    from everycore import ticket as tickets

    try:
        ticket = tickets.read(text)
        named = (ticket.channel, ticket.link, ticket.board, ticket.leash)
        confirmed = all(os.fstat(fd).st_ino == inode for fd, inode in named)
    except (OSError, ValueError, OverflowError):  # no JSON, not UTF-8, no descriptor
        return None
    return ticket if confirmed else None


def working_directory(environ: Mapping[str, str]) -> str | None:
    """Where we are: by the path that led here, if `PWD` still leads here, else without symbolic links.

    A shell's `cd` sets PWD to the path that was asked for (POSIX). None: in a folder that is gone.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was removed under us
        return None
    path = environ.get("PWD", "")
    try:
        is_here = os.path.isabs(path) and os.path.samefile(path, here)
    except (OSError, ValueError):
        return here
    return path if is_here else here


ticket: Ticket | None = read_ticket(os.environ)

#: Where everycore was imported: workers start there, so that a later `chdir` breaks no relative script. If
#: the path has symbolic links in it, each worker starts from where they lead at that time. None: in a folder
#: that is gone. Workers are then where we are: in another folder, a program that serves files, or removes
#: some, would do so there.
start_directory: str | None = working_directory(os.environ)

#: This process was started with SIGINT ignored, as `nohup` and the `&` of a script do. A primary handles the
#: signal all the same, and exec resets what is handled: without being told, a worker would not ignore it.
ignores_interrupt: bool = signal.getsignal(signal.SIGINT) is signal.SIG_IGN

#: True in a process that may open a `Cluster`. Also true under plain Python.
is_primary: bool = ticket is None
#: True in a process that a `Cluster` started.
is_worker: bool = ticket is not None


#: How many clusters are open in this process.
open_clusters: int = 0


#: Called when that changes in the life of a process.
on_change: Callable[[], object] | None = None


def be(new: Ticket | None, *, is_primary: bool) -> None:
    """Play that part from now on: a worker if there is a ticket."""
    globals().update(ticket=new, is_primary=is_primary, is_worker=new is not None)
    if on_change is not None:
        on_change()


def forked() -> None:
    """In a forked child: a worker's, or one of a process with an open `Cluster`, plays no part any more.

    The fork of a process that plays none may open a `Cluster` as its parent might have. So may a daemon
    that forks when it starts, and the children of multiprocessing's forkserver, which since Python 3.14
    imports the program before it forks.
    """
    global ticket, is_primary, is_worker, open_clusters
    if is_worker or open_clusters:
        ticket, is_primary, is_worker, open_clusters = None, False, False, 0
