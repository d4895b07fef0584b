"""What a process inherits from its starter and cannot work with.

Some of it survives exec(2): ignored or blocked signals, and the soft limit of descriptors. Each function here
puts right what it names and touches nothing else. Only the main thread may change what a signal does
(`signal.signal`): in another thread such a function does nothing.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterable


def hear(numbers: Iterable[int]) -> None:
    """Unblock these signals in this thread: a blocked one would wait for ever (sigprocmask(2)).

    A mask survives exec(2). Every function that installs a signal handler calls this.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def learn_of_children() -> None:
    """Stop ignoring SIGCHLD: otherwise the kernel reaps the children, and their statuses are lost.

    Source: waitid(2), "ERRORS", ECHILD; signal(7). Init scripts, panels and daemons start programs this way.
    """
    _replace(signal.SIGCHLD, signal.SIG_IGN, signal.SIG_DFL)


def write_from_background() -> None:
    """Let a background process write to its terminal, even with `stty tostop`, which would stop it.

    Source: termios(3), TOSTOP: a process that ignores SIGTTOU may write.
    """
    _replace(signal.SIGTTOU, signal.SIG_DFL, signal.SIG_IGN)


def is_group_leader() -> bool:
    """Whether this process leads its process group."""
    return os.getpgrp() == os.getpid()


def raise_descriptor_limit() -> None:
    """Raise the soft limit of descriptors to the hard one (getrlimit(2), RLIMIT_NOFILE).

    The soft limit, mostly 1024, is low for the sake of programs that call select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return  # the hard limit is above fs.nr_open, or this is a sandbox: leave it


def _replace(number: signal.Signals, old: signal.Handlers, new: signal.Handlers) -> None:
    if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is old:
        signal.signal(number, new)
