"""This process stops itself until SIGCONT, as Ctrl-Z in a terminal stops a process without a handler."""

from __future__ import annotations

import os
import signal


def can_stop() -> bool:
    """Whether this process can stop. Process 1 of a container can't (pid_namespaces(7))."""
    return os.getpid() != 1


def stop() -> None:
    """Stop, and return after SIGCONT. Must be called in the main thread.

    If a shell with job control has started this process, it stops by SIGTSTP, since the shell learns by which
    signal. The kernel drops SIGTSTP if no process could continue this one (setpgid(2), orphaned process
    groups), as under a supervisor. A SIGTSTP that was sent there is meant to stop this process all the same,
    and SIGSTOP is never dropped.
    """
    if not _has_shell():
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        os.kill(os.getpid(), signal.SIGTSTP)
    finally:
        signal.signal(signal.SIGTSTP, handler)


def _has_shell() -> bool:
    """Whether the parent is in another process group of this session: then this group is not orphaned."""
    parent = os.getppid()
    try:
        return parent > 0 and os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != os.getpgrp()
    except OSError:  # it has just ended
        return False
