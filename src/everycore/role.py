"""Which part this process plays: decided once, at import, from one environment variable.

Job: read `_EVERYCORE_WORKER`, believe it only if the kernel confirms it, and remove it.
Invariant: the only global state of the package. A grandchild is never taken for a worker: the variable is
removed at once, and even an inherited copy is ignored unless `fstat` finds those very sockets behind the
descriptor numbers. (Node removes `NODE_UNIQUE_ID` for the same reason, but believes it blindly.)
Imports nothing of everycore.
"""

from __future__ import annotations

import os
import signal
from collections.abc import MutableMapping
from typing import Final

import msgspec

VARIABLE: Final = "_EVERYCORE_WORKER"


class Ticket(msgspec.Struct, frozen=True):
    """What the primary tells a worker before it has said a word.

    `channel`, `link`, `board` and `leash` are [descriptor, inode]; `row` is the worker's on the board.
    `primary` is the primary's pid. Times are seconds. `ignores_interrupt`: the primary was started with
    SIGINT ignored.
    """

    id: int
    slot: int
    generation: int
    primary: int
    channel: tuple[int, int]
    link: tuple[int, int]
    board: tuple[int, int]
    leash: tuple[int, int]
    row: int
    grace: float
    orphan_grace: float
    max_message: int
    serialization: str
    ignores_interrupt: bool


def read_ticket(environ: MutableMapping[str, str]) -> Ticket | None:
    """Take the ticket out of `environ`; None when there is none, or it is not this process's own."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return None
    try:
        ticket = msgspec.json.decode(text, type=Ticket)
        named = (ticket.channel, ticket.link, ticket.board, ticket.leash)
        confirmed = all(os.fstat(fd).st_ino == inode for fd, inode in named)
    except (msgspec.DecodeError, OSError, ValueError, OverflowError):  # no JSON, not UTF-8, no descriptor
        return None
    return ticket if confirmed else None


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed under us
        return None


ticket: Ticket | None = read_ticket(os.environ)

#: Where everycore was imported: workers start there, so that a later `chdir` breaks no relative script. None:
#: in a folder that is gone. Workers are then where we are: in another folder, a program that serves files, or
#: removes some, would do so there.
start_directory: str | None = _working_directory()

#: This process was started with SIGINT ignored, as `nohup` and the `&` of a script do. A primary handles the
#: signal all the same, and exec resets what is handled: without being told, a worker would not ignore it.
ignores_interrupt: bool = signal.getsignal(signal.SIGINT) is signal.SIG_IGN

#: True in a process that may open a `Cluster`. Also true under plain Python.
is_primary: bool = ticket is None
#: True in a process that a `Cluster` started.
is_worker: bool = ticket is not None


#: How many clusters are open in this process.
open_clusters: int = 0


def forked() -> None:
    """In a forked child: a worker's, or one of a process with an open `Cluster`, plays no part any more.

    The fork of a process that plays none may open a `Cluster` as its parent might have. So may a daemon
    that forks when it starts, and the children of multiprocessing's forkserver, which since Python 3.14
    imports the program before it forks.
    """
    global ticket, is_primary, is_worker, open_clusters
    if is_worker or open_clusters:
        ticket, is_primary, is_worker, open_clusters = None, False, False, 0
