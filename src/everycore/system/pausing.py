"""This process stops itself, as Ctrl-Z in a terminal stops one without a handler, until SIGCONT."""

from __future__ import annotations

import os
import signal


def can_stop() -> bool:
    """False for process 1 of a container: the kernel ignores what would stop it (pid_namespaces(7))."""
    return os.getpid() != 1


def stop() -> None:
    """Stop, and return when somebody has sent SIGCONT. In the main thread only.

    By SIGTSTP where a shell with job control has started us, for that shell is told by which signal. The
    kernel drops it where nobody is there who could continue us (setpgid(2), orphaned process groups), as
    under a supervisor; whoever has sent SIGTSTP to us there means it, and SIGSTOP is never dropped.
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
    """Whether our parent is of another process group of our session: then this group is not orphaned."""
    parent = os.getppid()
    try:
        return parent > 0 and os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != os.getpgrp()
    except OSError:  # it has just ended
        return False
