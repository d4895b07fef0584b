"""What a worker that was just forked from a mold repairs, and how it joins its cluster.

Python itself repairs most of its state after a fork: the locks of logging and threading, the generator of
`random`, the names of `tempfile`, OpenSSL. This module repairs the rest. Invariant: before the program
begins, no two workers have the same state of any generator that this module knows, and no descriptor of the
mold is left.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, Final

import msgspec

from everycore import current
from everycore.core.mold_wire import FIXED_DESCRIPTORS, MakeWorker
from everycore.foreign import multiprocessing_internals, threading_internals, uuid_internals
from everycore.system.molding import place_descriptors
from everycore.ticket import Ticket

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def become_worker(order: MakeWorker, fds: list[int]) -> None:
    """Take the worker's descriptors and environment from the order, and join the cluster."""
    streams = (0, 1, 2)
    targets = (*streams, *order.pass_fds)
    fixed = FIXED_DESCRIPTORS + (order.ticket.tally is not None)
    channel, link, board, leash, *tally = place_descriptors(fds, targets, fixed)
    for name, value in order.env:
        if value is None:
            os.environb.pop(name, None)
        else:
            os.environb[name] = value
    _renew()
    ticket: Ticket = msgspec.structs.replace(
        order.ticket,
        channel=_named(channel),
        link=_named(link),
        board=_named(board),
        leash=_named(leash),
        tally=_named(tally[0]) if tally else None,
    )
    current.join_as(ticket)


def _named(fd: int) -> tuple[int, int]:
    return fd, os.fstat(fd).st_ino


def _renew() -> None:
    signal.set_wakeup_fd(-1)  # it belonged to a loop that ran in the mold
    threading_internals.renew_main_thread()
    multiprocessing_internals.renew()
    uuid_internals.renew()
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def is_ours(program: list[str]) -> bool:
    """Whether the program is everycore's own.

    Such a program itself calls the functions given to `everycore.after_fork`, and reports a failure.
    """
    return program[0].startswith(_PACKAGE + os.sep)
