"""The role of this process, decided once, at import, from one environment variable.

This module reads `_EVERYCORE_WORKER`, believes it only if the kernel confirms it, and removes it. Invariant:
a grandchild is never taken for a worker. The variable is removed at once, and even an inherited copy is
ignored unless `fstat` finds the named sockets behind the descriptor numbers. (Node removes `NODE_UNIQUE_ID`
for the same reason, but believes it blindly.) Without a ticket it imports nothing of everycore, so that a
program starts without delay.
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
    """Take the ticket out of `environ`. Returns None if there is none, or if it is for another process."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return None
    from everycore import ticket as tickets

    try:
        ticket = tickets.read(text)
        named = (ticket.channel, ticket.link, ticket.board, ticket.leash)
        confirmed = all(os.fstat(fd).st_ino == inode for fd, inode in named)
    except (OSError, ValueError, OverflowError):  # it is not JSON or not UTF-8, or a descriptor is not open
        return None
    return ticket if confirmed else None


def working_directory(environ: Mapping[str, str]) -> str | None:
    """The working directory: the path in `PWD` if that still leads here, else without symbolic links.

    A shell's `cd` sets PWD to the path that was asked for (POSIX). Returns None in a folder that is gone.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:  # the directory was removed in the meantime
        return None
    path = environ.get("PWD", "")
    try:
        is_here = os.path.isabs(path) and os.path.samefile(path, here)
    except (OSError, ValueError):
        return here
    return path if is_here else here


ticket: Ticket | None = read_ticket(os.environ)

#: The directory in which everycore was imported. Workers start there, so that a later `chdir` does not break
#: a relative script. Symbolic links in the path are followed anew for each worker. None if the folder is
#: gone: workers then start in the primary's directory, because a program that serves or removes files would
#: do so in any other folder that they were given.
start_directory: str | None = working_directory(os.environ)

#: Whether this process was started with SIGINT ignored, as the `&` of a script does. A primary handles the
#: signal all the same, and exec resets handled signals. So a worker has to be told to ignore it.
ignores_interrupt: bool = signal.getsignal(signal.SIGINT) is signal.SIG_IGN

#: True in a process that may open a `Cluster`. Also true under plain Python.
is_primary: bool = ticket is None
#: True in a process that a `Cluster` started.
is_worker: bool = ticket is not None


#: How many clusters are open in this process.
open_clusters: int = 0


#: Called when the role of this process changes.
on_change: Callable[[], object] | None = None


def be(new: Ticket | None, *, is_primary: bool) -> None:
    """Take that role from now on: a worker if there is a ticket."""
    globals().update(ticket=new, is_primary=is_primary, is_worker=new is not None)
    if on_change is not None:
        on_change()


def forked() -> None:
    """Take the role from a forked child, if its parent is a worker or has an open `Cluster`.

    The fork of any other process may open a `Cluster`, as its parent might have. Examples are a daemon that
    forks when it starts, and the children of multiprocessing's forkserver, which since Python 3.14 imports
    the program before it forks.
    """
    global ticket, is_primary, is_worker, open_clusters
    if is_worker or open_clusters:
        ticket, is_primary, is_worker, open_clusters = None, False, False, 0
